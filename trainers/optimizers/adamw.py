"""AdamW (Loshchilov, Hutter; ICLR 2019); the defaults are the One-Pixel Shortcut paper's for compact
transformers."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import nn

from trainers.families import Optimizer

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Optimizer, kind="adamw"):
    """Adam whose weight decay is decoupled from the gradient."""

    lr: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the averages of the gradient and of its square (paper: β1, β2)."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator for numerical stability (paper: ε)."""
    weight_decay: NonNegativeFloat = 3e-2
    """Decoupled weight decay of every weight, scaled by the learning rate (paper: λ)."""

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
