"""A small U-Net that predicts the noise in images (Ho, Jain, Abbeel; NeurIPS 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.loop import seeded
from trainers.meta import Shape

GROUPS = 8  # of a group normalisation, at most


class UNet(nn.Module):
    """Two residual blocks at each of three sizes, on `width`, 2·`width` and 2·`width` channels, with
    self-attention at the smallest; each block is shifted by an embedding of the time."""

    def __init__(self, shape: Shape, *, width: int) -> None:
        super().__init__()
        channels, wide = shape[0], 2 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList([Pair(width, width, width), Pair(width, wide, width)])
        self.halve = nn.ModuleList([nn.Conv2d(n, n, 3, stride=2, padding=1) for n in (width, wide)])
        self.middle = nn.ModuleList([Block(wide, wide, width), Attention(wide), Block(wide, wide, width)])
        self.up = nn.ModuleList([Pair(2 * wide, wide, width), Pair(wide + width, width, width)])
        self.norm, self.last = _norm(width), nn.Conv2d(width, channels, 3, padding=1)
        for weights in self.last.parameters():
            nn.init.zeros_(weights)

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """The noise in `x`, N,C,H,W, at `times` N, 0 for the first (default: 0)."""
        times = torch.zeros(len(x), device=x.device) if times is None else times
        shift = self.time(sinusoids(times, self.width))
        x, left = self.first(x), []
        for pair, halve in zip(self.down, self.halve, strict=True):
            left.append(pair(x, shift))
            x = halve(left[-1])
        for block in self.middle:
            x = block(x, shift)
        for pair in self.up:
            x = pair(torch.cat([F.interpolate(x, scale_factor=2.0), left.pop()], 1), shift)
        out: Tensor = self.last(F.silu(self.norm(x)))
        return out


class Block(nn.Module):
    """Two normalised convolutions with a shortcut around them, between which the time shifts the channels."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.one = nn.Sequential(_norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.shift = nn.Linear(4 * width, after)
        self.two = nn.Sequential(_norm(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out = self.one(x) + self.shift(F.silu(time))[:, :, None, None]
        out = self.two(out) + self.shortcut(x)
        return out


class Pair(nn.Module):
    """Two blocks, of which the first one changes the number of channels."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.one, self.two = Block(before, after, width), Block(after, after, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out: Tensor = self.two(self.one(x, time), time)
        return out


class Attention(nn.Module):
    """Self-attention over positions, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.project = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = self.project(self.norm(x)).view(n, 3, c, h * w).transpose(2, 3).unbind(1)
        mixed = F.scaled_dot_product_attention(*parts)
        return x + self.out(mixed.transpose(1, 2).reshape(n, c, h, w))


def sinusoids(times: Tensor, channels: int) -> Tensor:
    """Sines and cosines of `times` N at frequencies from 1 to 1/10,000: N,`channels`."""
    half = max(1, (channels + 1) // 2)
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=times.device) / half)
    angles = times.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :channels]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def build(shape: Shape, *, width: int, seed: int) -> UNet:
    """The network, its weights drawn from `seed`."""
    with seeded(torch.device("cpu"), seed):
        return UNet(shape, width=width)
