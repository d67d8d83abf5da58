"""What defenses share that train on the worst of several augmented versions of each image: adversarial
augmentation (Qin, Gao, Zhao, Ye, Xu; ICCV workshops 2023)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainers.families import Defense, Passes


class WorstVersion(Defense):
    """Minimises the largest loss of several versions of each image. All versions go through the network in
    training mode, one after the other, so that BatchNorm's running statistics see every one of them."""

    draws: PositiveInt = 5
    """Versions of each image (paper: K)."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the epochs, from the first on, with so many versions; there is one in the others."""
    smoke: ClassVar[dict[str, Any]] = {"draws": 2}

    @property
    def passes(self) -> Passes:
        mean = self.share * self.draws + 1 - self.share
        return Passes(forward=mean, backward=mean)

    def at(self, progress: float) -> Defense:
        return self if progress <= self.share else self.model_copy(update={"draws": 1})

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        versions = [model(self.augmented(x, y, gen)) for _ in range(self.draws)]
        losses = torch.stack([-(y * logits.float().log_softmax(1)).sum(1) for logits in versions])
        worst = losses.argmax(0)
        logits = torch.stack(versions)[worst, torch.arange(len(x), device=x.device)]
        return losses.amax(0).mean(), logits

    @abstractmethod
    def augmented(self, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        """One version of each image, N,C,H,W in [0, 1]; `y` are their class probabilities N,K."""
