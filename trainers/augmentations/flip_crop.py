"""The field's standard augmentation: a horizontal flip half of the time, then a random crop after zero
padding."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional as F

from trainers.families import Augmentation


class FlipCrop(Augmentation, kind="flip_crop"):
    """Flips with probability 1/2 (unless `flip` is false: digits have a handedness), then crops from `pad`
    zeros around."""

    pad: NonNegativeInt = 4
    flip: bool = True

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        n = len(x)
        if self.flip:
            flips = torch.randint(2, (n,), generator=gen, device=x.device).bool()
            x = torch.where(flips[:, None, None, None], x.flip(3), x)
        corners = torch.randint(2 * self.pad + 1, (2, n), generator=gen, device=x.device)
        return crop(x, corners[0], corners[1], pad=self.pad), y


def crop(x: Tensor, top: Tensor, left: Tensor, *, pad: int) -> Tensor:
    """Windows of the images' own size, each at its (top, left) in 0..2·pad, from images padded with `pad`
    zeros."""
    n, c, h, w = x.shape
    padded = F.pad(x, (pad, pad, pad, pad))
    rows = top[:, None, None, None] + torch.arange(h, device=x.device)[:, None]
    cols = left[:, None, None, None] + torch.arange(w, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(c, device=x.device)[:, None, None]
    return padded[image, channel, rows, cols]
