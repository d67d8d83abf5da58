"""mixup (Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018): every image and its label are blended with another of
the batch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.families import Augmentation


class Mixup(Augmentation, kind="mixup"):
    """Blends every image and its label with another of the batch, in shares drawn at random."""

    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Parameter of Beta(alpha, alpha), from which the share of an image is drawn (paper: α)."""
    per: Literal["image", "batch"] = "image"
    """Whether each image draws its own share, or the whole batch one, as published."""
    mixes: ClassVar[bool] = True

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        share = beta(self.alpha, len(x) if self.per == "image" else 1, gen)
        return mixup(x, y, share, torch.randperm(len(x), generator=gen, device=x.device))


def mixup(x: Tensor, y: Tensor, share: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """`share` (N or 1, in [0, 1]) of every image and label, the rest from the one at `order` (a permutation
    of N)."""
    return x[order].lerp_(x, share[:, None, None, None]), y[order].lerp_(y, share[:, None])


def beta(alpha: float, size: int, gen: torch.Generator) -> Tensor:
    """`size` draws from Beta(alpha, alpha), float32, on the generator's device."""
    if alpha == 1:
        return torch.rand(size, generator=gen, device=gen.device)
    # float64: for a small alpha, gamma draws lie below what float32 can hold
    shape = torch.full((2, size), alpha, dtype=torch.float64, device=gen.device)
    one, other = torch._standard_gamma(shape, generator=gen)
    return (one / (one + other)).float()
