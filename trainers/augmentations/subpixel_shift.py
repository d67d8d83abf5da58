"""Shifts by fractions of a pixel, through which gradients pass: the differentiable crop of data poisoning
(Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein; ICLR 2021)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import matrix, warp

GREY = 0.5  # beyond the edges


class SubpixelShift(Augmentation, kind="subpixel_shift"):
    """Shifts each image by its own distance along each axis, bilinearly, and mirrors it with probability
    1/2."""

    pixels: Annotated[float, Field(ge=0, le=64)] = 4.0
    """Largest shift along each axis, in pixels."""
    flip: bool = True
    """Whether images are mirrored."""

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.rand((len(x), 3), generator=gen, device=x.device)
        mirrored = (drawn[:, 2] > 0.5) & self.flip
        return shifted(x, (2 * drawn[:, :2] - 1) * self.pixels, mirrored), y


def shifted(x: Tensor, distance: Tensor, mirrored: Tensor) -> Tensor:
    """`x` N,C,H,W mirrored where `mirrored` (bool N), then read `distance` (N,2: to the right, down) pixels
    further, bilinearly; grey beyond the edges."""
    right, down = distance.unbind(1)
    zero, one = torch.zeros_like(down), torch.ones_like(down)
    across = 1 - 2 * mirrored.float()
    moves = matrix((across, zero, across * right), (zero, one, down))
    return warp(x - GREY, moves, mode="bilinear") + GREY
