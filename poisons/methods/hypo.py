"""Hypocritical noise (Tao, Feng, Yi, Huang, Chen; NeurIPS 2021; Tao, Feng, Wei, Yi, Huang, Chen; NeurIPS
2022): error-minimising noise of a network that does not change."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from poisons.methods.fixed_network import SMOKE, FixedNetworkNoise
from trainers.defenses.pgd_at import PgdAt
from trainers.pgd import Budget
from trainers.recipe import TrainSpec
from trainers.schedules.multi_step import MultiStep

SURROGATE = TrainSpec(
    epochs=10, defense=PgdAt(budget=Budget(eps=Fraction(2, 255))), schedule=MultiStep(milestones=())
)


class Hypo(FixedNetworkNoise, kind="hypo", version=3):
    """Noise that makes every image easier for a network that was adversarially trained, with a small budget,
    on clean images. It starts at zero. Published as harming robust accuracy more than standard accuracy.

    The defaults are those published in 2022. Shifted images are grey at the border, in the release black.
    """

    published: ClassVar[str] = "NeurIPS 2022"
    smoke: ClassVar[dict[str, Any]] = SMOKE
    surrogate: TrainSpec = SURROGATE
    steps: PositiveInt = 100
    """Steps on each image."""

    usual_step: ClassVar[Fraction] = Fraction(1, 10)
    from_zero: ClassVar[bool] = True

    def objective(self, out: Tensor, labels: Tensor, aim: Tensor | None) -> Tensor:
        return F.cross_entropy(out, labels, reduction="sum")
