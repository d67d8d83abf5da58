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
    """`lr` 5e-4, weight decay 3e-2 (decoupled, times `lr`, on every weight), betas 0.9 and 0.999."""

    lr: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegativeFloat = 3e-2

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            model.parameters(),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
