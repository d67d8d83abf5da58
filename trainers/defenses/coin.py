"""COIN: random pixel interpolation (Li, Wang and others; AAAI 2025, arXiv 2311.18403), made against poisons
that convolve images, such as CUDA."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.families import Defense
from trainers.operations import to_levels, to_pixels

ROUNDING = 1e-3  # of a level, which float32 may be below a whole one


class Coin(Defense, kind="coin"):
    """Reads every pixel of a training image at a random place near its own, drawn anew in each epoch.

    Applied after the augmentations. Places outside the image are wrapped to the opposite side, and the result
    is rounded down to whole levels, as in the release. Test images stay as they are.
    """

    alpha: Annotated[float, Field(ge=0, le=64)] = 2.0
    """Largest distance along each axis, in pixels; published for images of 32x32 pixels."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        n, _, h, w = x.shape
        draws = torch.rand((2, n, h, w), generator=gen, device=x.device) * 2 - 1
        down, right = self.alpha * draws
        rows = torch.arange(h, device=x.device).view(h, 1) + down
        columns = torch.arange(w, device=x.device) + right
        return to_pixels((interpolated(to_levels(x), rows, columns) + ROUNDING).floor_())


def interpolated(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`x` float N,C,H,W read at fractional places (`rows`, `columns`), each N,H,W, bilinearly; the channels
    of a pixel share its place. Places outside are wrapped so that the first and the last row coincide, which
    is scipy's mode `wrap`."""
    n, c, h, w = x.shape
    rows, columns = _wrapped(rows, h), _wrapped(columns, w)
    top, left = rows.floor(), columns.floor()
    down, right = rows - top, columns - left
    flat, out = x.flatten(2), torch.zeros_like(x)
    for below, tall in ((0, 1 - down), (1, down)):
        for beside, wide in ((0, 1 - right), (1, right)):
            at = (top.long() + below).clamp_(max=h - 1) * w + (left.long() + beside).clamp_(max=w - 1)
            found = flat.gather(2, at.view(n, 1, -1).expand(-1, c, -1)).view(n, c, h, w)
            out += found * (tall * wide)[:, None]
    return out


def _wrapped(at: Tensor, size: int) -> Tensor:
    """Places along an axis of `size` pixels, moved into 0..size-1 by multiples of size-1."""
    period = max(1, size - 1)
    within = (at >= 0) & (at <= size - 1)
    return torch.where(within, at, at - period * (at / period).floor()).clamp_(0, size - 1)
