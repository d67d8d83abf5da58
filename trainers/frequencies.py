"""The orthonormal discrete cosine transform (DCT-II) of images, as matrix products on their device."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def dct_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The orthonormal matrix M of `size` x `size` for which M @ v is the DCT-II of v."""
    at = torch.arange(size, dtype=torch.float64)
    found = torch.cos(math.pi / size * (at + 0.5) * at[:, None]) * math.sqrt(2 / size)
    found[0] /= math.sqrt(2)
    return found.to(device, dtype)


def low_pass(x: Tensor, keep: float) -> Tensor:
    """`x` float N,C,H,W with the lowest int(H * keep) x int(W * keep) frequencies of each channel, at least
    one; not clamped."""
    with torch.autocast(x.device.type, enabled=False):
        for axis in (2, 3):
            size = x.shape[axis]
            rows = dct_matrix(size, x.device, x.dtype)[: max(1, int(size * keep))]
            projection = rows.mT @ rows
            x = projection @ x if axis == 2 else x @ projection
    return x
