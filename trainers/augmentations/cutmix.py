"""CutMix (Yun, Han, Oh, Chun, Choe, Yoo, ICCV 2019): a box of an image is pasted from another of the batch,
and labels are blended by area."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainers.augmentations.mixup import beta
from trainers.families import Augmentation
from trainers.operations import inside


class CutMix(Augmentation, kind="cutmix"):
    """Pastes a box of another image, centred anywhere; published with one draw for a batch, here with one for
    each image."""

    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Parameter of Beta(alpha, alpha), from which the area that stays is drawn (paper: α)."""
    prob: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability that an image is mixed; published as 0.5 for CIFAR and 1 for ImageNet."""
    mixes: ClassVar[bool] = True

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        n, _, h, w = x.shape
        share = beta(self.alpha, n, gen)
        keeps = torch.rand(n, generator=gen, device=x.device) >= self.prob
        row = torch.randint(h, (n,), generator=gen, device=x.device)
        column = torch.randint(w, (n,), generator=gen, device=x.device)
        order = torch.randperm(n, generator=gen, device=x.device)
        return cutmix(x, y, share.masked_fill(keeps, 1), row, column, order)


def cutmix(
    x: Tensor, y: Tensor, share: Tensor, row: Tensor, column: Tensor, order: Tensor
) -> tuple[Tensor, Tensor]:
    """A box of 1 - `share` (N) of the area centred at (`row`, `column`), clipped by the border, comes from
    the image at `order`; the label keeps what remains of the image's own area."""
    _, _, h, w = x.shape
    side = (1 - share).sqrt()
    tall, wide = (side * h).long() // 2, (side * w).long() // 2
    box = inside(row - tall, row + tall, column - wide, column + wide, height=h, width=w)
    kept = 1 - box.float().mean((1, 2, 3))
    return torch.where(box, x[order], x), y[order].lerp_(y, kept[:, None])
