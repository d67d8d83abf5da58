"""One-Pixel Shortcut (Wu, Chen, Xie, Huang; ICLR 2023): one pixel per class, set to one extreme colour.

The score of a candidate (position, colour) is a function of per-pixel sums and second moments of the class,
so one integer pass over the images serves every colour and both objectives, and the choice is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from poisons.base import Perturbation, Poison, Report
from trainers.images import Images
from trainers.spec import InputError

Objective = Literal["released", "paper"]


class Ops(Poison, kind="ops"):
    """One pixel per class, found by search.

    With d the distance of a pixel's channels from the colour, over the images of the class: `objective:
    released` is what the paper's released code maximises, mean / standard deviation of d pooled over
    channels; `objective: paper` is its Eq. 2, mean / variance of the sum of d over channels. Colours have
    every channel at 0 or 255.

    Classes choose in the order of their labels, and no class may take a (position, colour) that an earlier
    one has, or the two would merge. A pixel that is constant in its class has no spread: if the colour
    changes it, it beats every pixel with spread, the larger change first. Remaining ties go to the last
    candidate in the order row, column, colour (black first, white last). A class without images gets no
    pixel.
    """

    objective: Objective = "released"

    def craft(
        self, clean: Images, *, seed: int, device: torch.device, report: Report = lambda _: None
    ) -> Perturbation:
        return search(moments(clean), self.objective)


@dataclass(frozen=True)
class Moments:
    """Exact per-class, per-pixel statistics in units of 0..255; the sum of two shards' is that of their
    union.

    `n` int64 K; `first` int64 K,C,H,W (sums of x_c); `second` int64 K,C,C,H,W (sums of x_c·x_d).
    """

    n: Tensor
    first: Tensor
    second: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.first + other.first, self.second + other.second)


@dataclass(frozen=True)
class PixelWrite(Perturbation):
    """Sets the pixel (`row`, `column`) of every image of a class to `colour`; int64 K, int64 K, uint8 K,C;
    row -1: none."""

    row: Tensor
    column: Tensor
    colour: Tensor

    def apply(self, images: Images) -> Images:
        x = images.x.clone()
        for k in range(len(self.row)):
            if self.row[k] >= 0:
                mine = (images.y == k).nonzero().squeeze(1)
                x[mine, :, self.row[k], self.column[k]] = self.colour[k].to(x.device)
        return Images(x, images.y, images.num_classes)

    def facts(self) -> dict[str, Any]:
        rows = zip(self.row.tolist(), self.column.tolist(), self.colour.tolist(), strict=True)
        named = ({"class": k, "row": r, "column": c, "colour": v} for k, (r, c, v) in enumerate(rows))
        return {"pixels": [pixel for pixel in named if pixel["row"] >= 0]}


def moments(images: Images, *, batch_size: int = 4096) -> Moments:
    """One exact pass over the images, in memory bounded by `batch_size`."""
    c, h, w = images.shape
    n = torch.bincount(images.y, minlength=images.num_classes)
    first = torch.zeros((len(n), c, h, w), dtype=torch.int64)
    second = torch.zeros((len(n), c, c, h, w), dtype=torch.int64)
    for k in range(len(n)):
        for mine in (images.y == k).nonzero().squeeze(1).split(batch_size):
            x = images.x[mine].int()
            first[k] += x.sum(0)
            for a in range(c):
                for b in range(a, c):
                    second[k, a, b] += (x[:, a] * x[:, b]).sum(0)
                    second[k, b, a] = second[k, a, b]
    return Moments(n, first, second)


def colours(channels: int) -> Tensor:
    """All 2^C colours with channels at 0 or 255, int64 2^C,C; the first channel counts most, so (R, G, B)
    as in binary."""
    index = torch.arange(2**channels)[:, None]
    return (index >> torch.arange(channels - 1, -1, -1)) % 2 * 255


def ratio(m: Moments, k: int, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """The score of class `k` as an exact fraction: numerator, denominator, and the summed distance T; int64
    H,W,2^C each.

    Distances are d_c = o_c + g_c·x_c with colour o and sign g. `released` gives the square of mean /
    standard deviation: T² / (C·n·Q - T²), Q the sum of d_c² over images and channels. `paper` gives n·T /
    (n·R - T²), R the sum of (Σ_c d_c)², which is 255 times Eq. 2. A denominator of 0 means that the
    distance is constant.
    """
    n, c = int(m.n[k]), m.first.shape[1]
    if n * c > 10_000_000:
        raise OverflowError(f"class {k} has {n} images; the exact 64-bit search takes {10_000_000 // c}")
    o = colours(c)
    g = 1 - o // 255 * 2
    total = n * o.sum(1) + torch.einsum("vc,chw->hwv", g, m.first[k])
    pairs = (
        n * torch.einsum("vc,vd->vcd", o, o)[None, None]
        + torch.einsum("vc,vd,dhw->hwvcd", o, g, m.first[k])
        + torch.einsum("vd,vc,chw->hwvcd", o, g, m.first[k])
        + torch.einsum("vc,vd,cdhw->hwvcd", g, g, m.second[k])
    )
    if objective == "released":
        squares = pairs.diagonal(dim1=3, dim2=4).sum(3)
        return total**2, c * n * squares - total**2, total
    return n * total, n * pairs.sum((3, 4)) - total**2, total


def search(m: Moments, objective: Objective) -> PixelWrite:
    """The best free (position, colour) of each class, classes in order, compared exactly."""
    classes, c, _, width = m.first.shape
    palette = colours(c)
    row, column = torch.full((2, classes), -1)
    colour = torch.zeros((classes, c), dtype=torch.uint8)
    taken: set[int] = set()
    for k in range(classes):
        if m.n[k] == 0:
            continue
        if len(taken) == len(palette) * m.first[0, 0].numel():
            raise InputError(
                f"class {k} finds no free pixel: earlier classes have taken all {len(taken)} candidates"
            )
        top, bottom, total = (t.flatten() for t in ratio(m, k, objective))
        best = _best(top, bottom, total, taken)
        taken.add(best)
        position, v = divmod(best, len(palette))
        row[k], column[k] = divmod(position, width)
        colour[k] = palette[v].to(torch.uint8)
    return PixelWrite(row, column, colour)


def _best(top: Tensor, bottom: Tensor, total: Tensor, taken: set[int]) -> int:
    """The flat index of the largest free top/bottom: floats make a short list, whole numbers decide."""
    score = torch.where(total > 0, top.double() / bottom.double(), 0.0)
    score[list(taken)] = -1.0
    short = (score >= score.max() * (1 - 1e-9)).nonzero().squeeze(1).tolist()

    def rank(i: int) -> tuple[bool, Fraction, int, int]:
        constant = int(bottom[i]) == 0
        return constant, Fraction(0 if constant else Fraction(int(top[i]), int(bottom[i]))), int(total[i]), i

    return int(max(short, key=rank))
