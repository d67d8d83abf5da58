"""Random noise within a budget: the control that every crafted noise is compared with. The same for a class,
it is a shortcut by itself (Huang, Ma, Erfani, Bailey, Wang; ICLR 2021)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar, Literal

import torch
from torch import Tensor

from poisons.base import CraftContext, Perturbation, Poison
from poisons.perturbations.delta import Delta, NoiseEps
from poisons.perturbations.random_levels import RandomLevels, drawn
from poisons.rng import rng
from trainers.images import Images


class RandomNoise(Poison, kind="random_noise", version=2):  # 2: each image has a stream of its own
    """Adds noise of which every value is drawn independently, in whole levels within the budget."""

    bound: ClassVar[str] = "Linf eps"
    published: ClassVar[str] = "a control"
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    granularity: Literal["class_wise", "sample_wise"] = "class_wise"
    """Whether all images of a class get the same noise, or each image its own."""
    values: Literal["uniform", "signs"] = "uniform"
    """uniform draws from all levels of the budget, signs only its two ends."""

    @property
    def transfers(self) -> bool:
        return self.granularity == "class_wise"

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        levels = self._levels()
        if self.granularity == "sample_wise":
            return RandomLevels(levels, len(clean), clean.shape, seed)
        gen = rng(seed, "random noise")
        noise = [drawn(levels, clean.shape, gen) for _ in range(clean.num_classes)]
        return Delta(torch.stack(noise), "class")

    def _levels(self) -> Tensor:
        """The levels that a value is drawn from."""
        most = math.floor(self.eps * 255)
        levels = [-most, most] if self.values == "signs" else range(-most, most + 1)
        return torch.tensor(levels, dtype=torch.int8 if most <= 127 else torch.int16)
