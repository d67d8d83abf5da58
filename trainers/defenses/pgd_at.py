"""Adversarial training with projected gradient descent (Madry, Makelov, Schmidt, Tsipras, Vladu; ICLR
2018)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from trainers.attacks import Budget, Frozen, pgd
from trainers.families import Defense, cross_entropy
from trainers.spec import Eps


class PgdAt(Defense, kind="pgd_at"):
    """Trains on inputs that PGD has made worse within `budget`.

    `step` defaults to 2.5·eps/steps, which reaches the budget's edge for either norm and is the usual 2/255
    for ℓ∞ 8/255 in 10 steps. The attack sees the network in eval mode.
    """

    budget: Budget = Budget()
    steps: PositiveInt = 10
    step: Eps | None = None
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    def step_size(self) -> float:
        """The length of one step in units of the pixel range."""
        return float(self.budget.eps * 5 / (2 * self.steps) if self.step is None else self.step)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        with Frozen(model):
            x_adv = pgd(
                model, x, y, self.budget, steps=self.steps, step=self.step_size(), loss=cross_entropy, gen=gen
            )
        logits = model(x_adv)
        return cross_entropy(logits, y), logits
