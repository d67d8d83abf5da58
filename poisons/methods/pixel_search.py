"""The exact pixel search of One-Pixel Shortcut (Wu, Chen, Xie, Huang; ICLR 2023), from moments alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from poisons.methods.moments import Moments, pairs
from poisons.perturbations.pixel_write import PixelWrite
from trainers.spec import InputError

Objective = Literal["released", "paper", "art"]
Further = Literal["ranked", "nested"]
Exclusion = Literal["candidate", "position", "none"]

NEAR = 1e-9  # relative; scores closer than this are compared in exact arithmetic
CONSTANT = 1e30  # in place of an infinite score; all others are below 2⁶³
BLOCK = 2**15  # candidates scored at a time


def colours(channels: int) -> Tensor:
    """All 2^C colours with channels at 0 or 255, int64 2^C,C; the first channel counts most, so (R, G, B)
    as in binary."""
    index = torch.arange(2**channels)[:, None]
    return (index >> torch.arange(channels - 1, -1, -1)) % 2 * 255


def ratio(
    m: Moments, k: int, objective: Objective, positions: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores of class `k` as exact fractions: numerators, denominators, and tie breakers; int64 H·W,2^C
    each, or for some `positions`.

    Distances are d_c = o_c + g_c·x_c with colour o and sign g; T, Q and R are the sums of d_c, of d_c² and of
    (Σ_c d_c)² over images and channels. `released` gives the square of mean / standard deviation, T² / (C·n·Q
    - T²); `paper` gives n·T / (n·R - T²), which is Eq. 2 divided by 255; `art` gives (255·n·C)² (mean -
    variance), 255·C·n·T - (n·R - T²). A denominator of 0 means that the distance is constant; of equal
    fractions the larger T is better, but for `art`, where that is 0.
    """
    n, c = int(m.n[k]), m.first.shape[1]
    if n * c > 10_000_000:
        raise InputError(
            f"class {k} has {n} images; the exact 64-bit search takes {10_000_000 // c}: "
            "set `search_fraction`"
        )
    o = colours(c)
    g = 1 - o // 255 * 2
    first, second = (t[k].flatten(1)[:, positions].T.long() for t in (m.first, m.second))
    moved = first @ g.T
    total = n * o.sum(1) + moved
    if objective == "released":
        own = second @ torch.tensor([[int(a == b)] for a, b in pairs(c)])
        squares = n * (o**2).sum(1) + 2 * first @ (o * g).T + own
        return total**2, c * n * squares - total**2, total
    twice = torch.stack([g[:, a] * g[:, b] * (1 + (a != b)) for a, b in pairs(c)])
    spread = n * (n * o.sum(1) ** 2 + 2 * o.sum(1) * moved + second @ twice) - total**2
    if objective == "paper":
        return n * total, spread, total
    return 255 * c * n * total - spread, torch.ones_like(total), torch.zeros_like(total)


def ranking(m: Moments, k: int, objective: Objective, count: int) -> list[int]:
    """The `count` best candidates of class `k`, best first, as flat indices position · colours + colour."""
    parts = []
    positions, here = m.first[0, 0].numel(), 2 ** m.first.shape[1]
    width = max(1, BLOCK // here)
    for low in range(0, positions, width):
        values = [t.flatten() for t in ratio(m, k, objective, slice(low, low + width))]
        near = _near_the_best(_score(*values), count)
        parts.append([near + low * here, *(t[near] for t in values)])
    index, top, bottom, second = (torch.cat(part) for part in zip(*parts, strict=True))
    last = -(index % here * positions + index // here) if objective == "art" else index
    return index[_order(top, bottom, second, last, count)].tolist()


def _score(top: Tensor, bottom: Tensor, second: Tensor) -> Tensor:
    """top/bottom as float64. With a bottom of 0 the score is above all others, or 0 if `second` is 0 too."""
    constant = torch.where(second > 0, CONSTANT, 0.0)
    return torch.where(bottom == 0, constant, top.double() / bottom)


def _near_the_best(score: Tensor, count: int) -> Tensor:
    """The indices of the `count` best, and of all close enough to need exact comparison."""
    edge = score.topk(min(count, len(score))).values[-1]
    return (score >= edge - NEAR * edge.abs()).nonzero().squeeze(1)


def _order(top: Tensor, bottom: Tensor, second: Tensor, last: Tensor, count: int) -> list[int]:
    """The indices of the `count` largest top/bottom, the largest first; ties by larger `second`, then larger
    `last`. Sorted as floats, with exact arithmetic for close values."""
    score = _score(top, bottom, second)
    some = _near_the_best(score, count)
    some = some[score[some].argsort(descending=True)]
    score = score[some]
    apart = (score[1:] < score[:-1] - NEAR * score[:-1].abs()).nonzero().squeeze(1) + 1
    order, ends = some.tolist(), [0, *apart.tolist(), len(some)]
    for low, high in itertools.pairwise(ends):
        if high - low > 1:
            order[low:high] = _exactly(top, bottom, second, last, some[low:high])
    return order[:count]


def _exactly(top: Tensor, bottom: Tensor, second: Tensor, last: Tensor, some: Tensor) -> list[int]:
    """The indices `some` in order, by exact arithmetic."""
    values = list(zip(*(t[some].tolist() for t in (top, bottom, second)), strict=True))

    def worth(value: tuple[int, int, int]) -> tuple[Fraction, int]:
        above, below, size = value
        return Fraction(above, below) if below else Fraction(0), size  # near a constant, all are

    place = {value: i for i, value in enumerate(sorted(set(values), key=worth))}
    ranked = sorted(
        zip((place[value] for value in values), last[some].tolist(), some.tolist(), strict=True), reverse=True
    )
    return [index for _, _, index in ranked]


def search(
    m: Moments,
    objective: Objective = "released",
    *,
    pixels: int = 1,
    further: Further = "ranked",
    exclusion: Exclusion = "candidate",
) -> PixelWrite:
    """The best free candidates of each class, chosen exactly as described in `Ops`."""
    palette = colours(m.first.shape[1])
    classes = m.n.nonzero().squeeze(1).tolist()
    claims = _Claims(further, exclusion, len(palette))
    count = min(claims.longest(len(classes), pixels), m.first[0, 0].numel() * len(palette))
    rankings: dict[int, Iterator[int]] = {}
    found: dict[int, list[int]] = {k: [] for k in classes}
    for k in classes * pixels if further == "nested" else (k for k in classes for _ in range(pixels)):
        if k not in rankings:
            rankings[k] = iter(ranking(m, k, objective, count))
        best = next((i for i in rankings[k] if claims.free(i, k)), None)
        if best is None:
            raise InputError(
                f"class {k} finds {len(found[k])} of {pixels} pixels: all {count} candidates are taken by "
                "other classes or by its own pixels; use fewer pixels, or `exclusion: none`"
            )
        claims.take(best, k)
        found[k].append(best)
    return _written(found, m, palette, pixels)


@dataclass
class _Claims:
    """The candidates taken so far. A candidate is a flat index, position · colours + colour."""

    further: Further
    exclusion: Exclusion
    colours: int
    owner: dict[int, int] = field(default_factory=dict)  # of a candidate, or of a position
    own: set[tuple[int, int]] = field(default_factory=set)  # class and position

    def longest(self, classes: int, pixels: int) -> int:
        """How many candidates a class needs at most to find its pixels, whatever is taken."""
        others = {"candidate": 1, "position": self.colours, "none": 0}[self.exclusion]
        own = self.colours if self.further == "nested" else 1
        return pixels * ((classes - 1) * others + own)

    def free(self, candidate: int, k: int) -> bool:
        if self.further == "nested" and (k, candidate // self.colours) in self.own:
            return False
        return self.exclusion == "none" or self.owner.get(self._what(candidate), k) == k

    def take(self, candidate: int, k: int) -> None:
        self.owner.setdefault(self._what(candidate), k)
        self.own.add((k, candidate // self.colours))

    def _what(self, candidate: int) -> int:
        return candidate // self.colours if self.exclusion == "position" else candidate


def _written(found: dict[int, list[int]], m: Moments, palette: Tensor, pixels: int) -> PixelWrite:
    classes, _, height, width = m.first.shape
    candidates = torch.full((classes, pixels), -1)
    for k, mine in found.items():
        candidates[k] = torch.tensor(mine)
    none = candidates < 0
    position = candidates // len(palette)
    row, column = (t.masked_fill(none, -1) for t in (position // width, position % width))
    colour = palette[candidates % len(palette)].masked_fill(none[..., None], 0).to(torch.uint8)
    return PixelWrite(row, column, colour, (height, width))
