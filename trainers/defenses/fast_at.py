"""Fast adversarial training: one large step from a random start (Wong, Rice, Kolter; ICLR 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainers.families import Defense, Passes, cross_entropy
from trainers.pgd import Budget, Frozen, pgd
from trainers.spec import Step


class FastAt(Defense, kind="fast_at"):
    """Trains on adversarial inputs from one step, at a fifth of the cost of ten-step PGD.

    Long trainings at a high learning rate may overfit to the single step and suddenly lose all robustness:
    evaluate with `pgd`.
    """

    budget: Budget = Budget()
    """The ball around each image in which the attack stays (paper: ε)."""
    step: Step | None = None
    """Length of the step (paper: α), in units of the pixel range; null is 1.25·eps."""
    mode: Literal["eval", "train"] = "eval"
    """Mode of the network, and so of BatchNorm, during the attack; published code uses either."""

    @property
    def passes(self) -> Passes:
        return Passes(forward=2, backward=1, inputs=1)

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        step = float(self.budget.eps * 5 / 4 if self.step is None else self.step)
        with Frozen(model, training=self.mode == "train"):
            return pgd(model, x, y, self.budget, steps=1, step=step, loss=cross_entropy, gen=gen)
