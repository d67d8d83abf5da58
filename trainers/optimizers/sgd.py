"""Stochastic gradient descent with momentum; the defaults are the One-Pixel Shortcut paper's."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import nn

from trainers.families import Optimizer


class Sgd(Optimizer, kind="sgd"):
    """SGD with plain or Nesterov momentum and weight decay."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum; 0 is plain gradient descent."""
    weight_decay: NonNegativeFloat = 5e-4
    """Coefficient of the L2 penalty on every weight."""
    nesterov: bool = False
    """Whether momentum is Nesterov's, which needs a momentum above 0."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0, such as 0.9")
        return self

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=True,
        )
