"""The field's standard augmentation: a horizontal flip half of the time, then a random crop after zero
padding."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import matrix, warp


class FlipCrop(Augmentation, kind="flip_crop"):
    """A random flip, then a random crop of the padded image to its own size."""

    pad: NonNegativeInt = 4
    """Zeros added on each side before the crop, in pixels."""
    flip: bool = True
    """Whether images are mirrored with probability 1/2; false for digits, which have a handedness."""

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        n = len(x)
        flips = torch.randint(2, (n,), generator=gen, device=x.device).bool() if self.flip else None
        corners = torch.randint(2 * self.pad + 1, (2, n), generator=gen, device=x.device)
        return crop(x, corners[0], corners[1], pad=self.pad, flips=flips), y


def crop(x: Tensor, top: Tensor, left: Tensor, *, pad: int, flips: Tensor | None = None) -> Tensor:
    """Windows of the images' own size, each at its (top, left) in 0..2·pad, from images that are mirrored
    where `flips` is true, then padded with `pad` zeros. One gather, which moves pixels and changes none."""
    down, right = (top - pad).float(), (left - pad).float()
    zero, one = torch.zeros_like(down), torch.ones_like(down)
    across = one if flips is None else 1 - 2 * flips.float()
    return warp(x, matrix((across, zero, across * right), (zero, one, down)))
