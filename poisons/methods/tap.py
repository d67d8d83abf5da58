"""Adversarial examples as poisons, TAP: error-maximising noise (Fowl, Goldblum, Chiang, Geiping, Czaja,
Goldstein; NeurIPS 2021)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from poisons.methods.fixed_network import SMOKE, FixedNetworkNoise
from trainers.augmentations.subpixel_shift import SubpixelShift
from trainers.optimizers.sgd import Sgd
from trainers.recipe import TrainSpec
from trainers.schedules.multi_step import MultiStep

SURROGATE = TrainSpec(
    epochs=40,
    optimizer=Sgd(nesterov=True),
    schedule=MultiStep(milestones=(0.35, 0.625, 0.875)),
    augmentations=(SubpixelShift(),),
)


class Tap(FixedNetworkNoise, kind="tap", version=2):
    """Adversarial noise against a network of clean images: towards the next class, or away from the own one.
    A network trained on such images learns the wrong features for each class.

    Images are shifted by up to 4 pixels, as published for 32 px; the release takes 8 for 64 px, 28 for 224.
    """

    published: ClassVar[str] = "NeurIPS 2021"
    smoke: ClassVar[dict[str, Any]] = SMOKE | {"restarts": 2}
    surrogate: TrainSpec = SURROGATE
    restarts: PositiveInt = 8
    """Starts from other noise, of which that with the lowest objective is kept."""
    aim: Literal["next_class", "untargeted"] = "next_class"
    """Towards the class after the own one, or away from the own one, which is published as brittle."""

    usual_step: ClassVar[Fraction] = Fraction(1, 20)

    def objective(self, out: Tensor, labels: Tensor, aim: Tensor | None) -> Tensor:
        if self.aim == "untargeted":
            return -F.cross_entropy(out, labels, reduction="sum")
        return F.cross_entropy(out, (labels + 1) % out.shape[1], reduction="sum")
