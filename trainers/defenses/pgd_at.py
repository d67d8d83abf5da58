"""Adversarial training with projected gradient descent (Madry, Makelov, Schmidt, Tsipras, Vladu; ICLR
2018)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from trainers.families import Defense, Passes, cross_entropy
from trainers.pgd import Budget, Frozen, pgd, step_size
from trainers.spec import Step


class PgdAt(Defense, kind="pgd_at"):
    """Trains on adversarial inputs that PGD finds from a random start.

    The default step reaches the budget's edge for either norm and is the usual 2/255 for ℓ∞ 8/255 in 10
    steps.
    """

    budget: Budget = Budget()
    """The ball around each image in which the attack stays (paper: ε)."""
    steps: PositiveInt = 10
    """Gradient steps of the attack on each batch."""
    step: Step | None = None
    """Length of a step (paper: α), in units of the pixel range; null is 2.5·eps/steps."""
    mode: Literal["eval", "train"] = "eval"
    """Mode of the network, and so of BatchNorm, during the attack; published code uses either."""
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    @property
    def passes(self) -> Passes:
        return Passes(forward=1 + self.steps, backward=1, inputs=self.steps)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        step = step_size(self.budget, self.steps, self.step)
        with Frozen(model, training=self.mode == "train"):
            return pgd(model, x, y, self.budget, steps=self.steps, step=step, loss=cross_entropy, gen=gen)
