"""Plasma fractals: smooth random fields, made by the diamond-square algorithm (Fournier, Fussell, Carpenter;
Communications of the ACM 1982). kornia's are made alike, but are dark in the corners and in the middle."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def plasma(n: int, size: tuple[int, int], roughness: Tensor, gen: torch.Generator) -> Tensor:
    """`n` fields in [0, 1], n,H,W. `roughness` n in (0, 1) is the factor by which the random part of a point
    shrinks from each scale to the next finer one."""
    h, w = size
    device = roughness.device
    field = torch.rand((n, 1, 3, 3), generator=gen, device=device)
    share = torch.ones((n, 1, 1, 1), device=device)
    while field.shape[-1] < max(h, w):
        share = share * roughness.view(-1, 1, 1, 1)
        field = _finer(field, share, gen)
    return field[:, 0, :h, :w]


def _finer(field: Tensor, share: Tensor, gen: torch.Generator) -> Tensor:
    """A field of 2s - 1 points a side from one of s. The middle of each square is between the mean of its
    corners and a random number, the middle of each edge between the mean of its three or four neighbours and
    one; `share` is how much of it is random."""
    n, _, s, _ = field.shape
    noise = share * torch.rand((n, 1, 2 * s - 1, 2 * s - 1), generator=gen, device=field.device)
    grid = torch.zeros_like(noise)
    grid[..., ::2, ::2] = field
    corners = field[..., :-1, :-1] + field[..., :-1, 1:] + field[..., 1:, :-1] + field[..., 1:, 1:]
    grid[..., 1::2, 1::2] = (1 - share) * corners / 4 + noise[..., 1::2, 1::2]
    around = (1 - share) * _neighbours(grid) / _neighbours(torch.ones_like(grid[:1]))
    for rows, columns in (
        (slice(None, None, 2), slice(1, None, 2)),
        (slice(1, None, 2), slice(None, None, 2)),
    ):
        grid[..., rows, columns] = around[..., rows, columns] + noise[..., rows, columns]
    return grid


def _neighbours(grid: Tensor) -> Tensor:
    """The sum of the points above, below, left and right of each point."""
    padded = F.pad(grid, (1, 1, 1, 1))
    middle = slice(1, -1)
    upright = padded[..., :-2, middle] + padded[..., 2:, middle]
    return upright + padded[..., middle, :-2] + padded[..., middle, 2:]
