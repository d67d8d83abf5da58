"""Random noise within a budget: the control that every crafted noise is compared with. The same for a class,
it is a shortcut by itself (Huang, Ma, Erfani, Bailey, Wang; ICLR 2021)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar, Literal

import torch

from poisons.base import CraftContext, Perturbation, Poison
from poisons.perturbations.delta import Delta, NoiseEps
from poisons.rng import rng
from trainers.images import Images


class RandomNoise(Poison, kind="random_noise"):
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
        most, class_wise = math.floor(self.eps * 255), self.granularity == "class_wise"
        size = (clean.num_classes if class_wise else len(clean), *clean.shape)
        gen, dtype = rng(seed, "random noise"), torch.int8 if most <= 127 else torch.int16
        delta = torch.empty(size, dtype=dtype)
        for row in delta:  # one at a time, since all of them as int64 may not fit into memory
            if self.values == "signs":
                row.copy_((2 * torch.randint(2, clean.shape, generator=gen) - 1) * most)
            else:
                row.copy_(torch.randint(-most, most + 1, clean.shape, generator=gen))
        return Delta(delta, "class" if class_wise else "image")
