"""TRADES: accuracy on clean inputs, and the same prediction near them (Zhang, Yu, Jiao, Xing, El Ghaoui,
Jordan; ICML 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.families import Defense, Passes, cross_entropy
from trainers.pgd import Budget, Frozen, pgd, step_size
from trainers.spec import Step

START = (
    0.001  # standard deviation of the start, as published: at the input itself the divergence has no gradient
)


class Trades(Defense, kind="trades"):
    """Minimises cross-entropy plus a multiple of the divergence between the predictions for an input and for
    the worst input found near it.

    The attack runs inside the loss, on the final batch: after mixup, if there is any.
    """

    budget: Budget = Budget()
    """The ball around each image in which the attack stays (paper: ε)."""
    beta: PositiveFloat = 6.0
    """Weight of the divergence beside the cross-entropy (paper: 1/λ)."""
    steps: PositiveInt = 10
    """Gradient steps of the attack on each batch."""
    step: Step | None = None
    """Length of a step (paper: α), in units of the pixel range; null is 2.5·eps/steps."""
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    @property
    def passes(self) -> Passes:
        return Passes(forward=3 + self.steps, backward=2, inputs=self.steps)  # the target; the batch twice

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        with Frozen(model):
            with torch.no_grad():
                target = log_probabilities(model(x))
            start = START * torch.randn(x.shape, generator=gen, device=x.device)
            step = step_size(self.budget, self.steps, self.step)
            x_adv = pgd(
                model,
                x,
                target,
                self.budget,
                steps=self.steps,
                step=step,
                loss=divergence,
                gen=gen,
                start=start,
            )
        logits = model(x)
        apart = divergence(model(x_adv), log_probabilities(logits))
        return cross_entropy(logits, y) + self.beta * apart, logits


def log_probabilities(logits: Tensor) -> Tensor:
    """Logarithms of the softmax over classes, in float32; finite where probabilities would be 0."""
    return logits.float().log_softmax(1)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence KL(exp(target) || softmax(logits)) over the batch, in nats."""
    return F.kl_div(log_probabilities(logits), target, reduction="batchmean", log_target=True)
