"""Projected gradient descent as an evaluation (Madry, Makelov, Schmidt, Tsipras, Vladu; ICLR 2018)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from trainers.families import Attack, Passes, cross_entropy
from trainers.pgd import pgd, step_size
from trainers.spec import Step


class Pgd(Attack, kind="pgd"):
    """Ascents of the cross-entropy from a random start."""

    steps: PositiveInt = 20
    """Gradient steps of the attack on each batch."""
    step: Step | None = None
    """Length of a step (paper: α), in units of the pixel range; null is 2.5·eps/steps."""
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    @property
    def name(self) -> str:
        own = "" if self.step is None else f"_step_{self.step}".replace("/", "_")
        return f"pgd{self.steps}_{self.budget.name}{own}"

    @property
    def passes(self) -> Passes:
        return Passes(forward=self.steps, inputs=self.steps)

    @property
    def strength(self) -> int:
        reach = self.steps * step_size(self.budget, self.steps, self.step)
        return self.steps if reach >= float(self.budget.eps) else 0

    def craft(self, model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
        step = step_size(self.budget, self.steps, self.step)
        return pgd(model, x, labels, self.budget, steps=self.steps, step=step, loss=cross_entropy, gen=gen)
