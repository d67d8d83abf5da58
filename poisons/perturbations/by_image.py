"""Noise that is made image by image when it is applied, since that of all images may not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from poisons.perturbations.delta import Delta
from trainers.images import Images

VALUES = 2**20  # values of noise made at a time
Levels = Callable[[Tensor, Tensor], Tensor]


def with_noise(images: Images, rows: Tensor, levels: Levels) -> Images:
    """The images with noise, clipped to 0..255. `levels(rows, labels)` makes that of some of them: N,C,H,W,
    in levels of 1/255."""
    x = torch.empty_like(images.x, memory_format=torch.contiguous_format)
    size = max(1, VALUES // max(1, math.prod(images.shape)))
    for part in torch.arange(len(images)).split(size) if len(images) else ():
        here = slice(int(part[0]), int(part[-1]) + 1)
        some = Images(images.x[here], images.y[here], images.num_classes)
        x[here] = Delta(levels(rows[part], some.y.cpu())).apply(some).x
    return Images(x, images.y, images.num_classes)
