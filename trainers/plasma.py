"""Plasma fractals: smooth random fields, made by the diamond-square algorithm (Fournier, Fussell, Carpenter;
Communications of the ACM 1982)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def plasma(n: int, size: tuple[int, int], roughness: Tensor, gen: torch.Generator) -> Tensor:
    """One field for each of `n` images, n,H,W, stretched to [0, 1]. `roughness` n in (0, 1) is the factor by
    which random shifts shrink from each scale to the next finer one."""
    h, w = size
    device = roughness.device
    field = torch.rand((n, 1, 2, 2), generator=gen, device=device)
    scale = torch.ones((n, 1, 1, 1), device=device)
    while field.shape[-1] < max(h, w):
        scale = scale * roughness.view(-1, 1, 1, 1)
        field = _finer(field, scale, gen)
    field = field[:, 0, :h, :w]
    low = field.amin((1, 2), keepdim=True)
    return (field - low) / (field.amax((1, 2), keepdim=True) - low).clamp(min=1e-8)


def _finer(field: Tensor, scale: Tensor, gen: torch.Generator) -> Tensor:
    """A field of 2s - 1 points a side from one of s: the middle of each square is the mean of its corners,
    the middle of each edge that of its three or four neighbours, each shifted by up to `scale`."""
    n, _, s, _ = field.shape
    shifts = scale * (2 * torch.rand((n, 1, 2 * s - 1, 2 * s - 1), generator=gen, device=field.device) - 1)
    grid = torch.zeros_like(shifts)
    grid[..., ::2, ::2] = field
    corners = field[..., :-1, :-1] + field[..., :-1, 1:] + field[..., 1:, :-1] + field[..., 1:, 1:]
    grid[..., 1::2, 1::2] = corners / 4 + shifts[..., 1::2, 1::2]
    around = _neighbours(grid) / _neighbours(torch.ones_like(grid[:1]))
    for rows, columns in (
        (slice(None, None, 2), slice(1, None, 2)),
        (slice(1, None, 2), slice(None, None, 2)),
    ):
        grid[..., rows, columns] = around[..., rows, columns] + shifts[..., rows, columns]
    return grid


def _neighbours(grid: Tensor) -> Tensor:
    """The sum of the points above, below, left and right of each point."""
    padded = F.pad(grid, (1, 1, 1, 1))
    middle = slice(1, -1)
    upright = padded[..., :-2, middle] + padded[..., 2:, middle]
    return upright + padded[..., middle, :-2] + padded[..., middle, 2:]
