"""Cutout (DeVries, Taylor, arXiv 1708.04552, 2017): a square of every image is made black."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import inside


class Cutout(Augmentation, kind="cutout"):
    """Blackens a square centred on any pixel, so that it may overlap the border."""

    size: PositiveInt = 16
    """Side of the square in pixels; published as 16 for CIFAR-10, 8 for CIFAR-100 and 20 for SVHN."""

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        n, _, h, w = x.shape
        row = torch.randint(h, (n,), generator=gen, device=x.device)
        column = torch.randint(w, (n,), generator=gen, device=x.device)
        return cutout(x, row, column, size=self.size), y


def cutout(x: Tensor, row: Tensor, column: Tensor, *, size: int) -> Tensor:
    """Zeros in the `size`×`size` pixels from (`row` - size//2, `column` - size//2) on."""
    top, left = row - size // 2, column - size // 2
    box = inside(top, top + size, left, left + size, height=x.shape[2], width=x.shape[3])
    return x.masked_fill(box, 0)
