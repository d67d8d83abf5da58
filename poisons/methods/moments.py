"""Moments: per-class sums of pixel values and their products, computed in one pass. The pixel search needs
nothing else from the images."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poisons.base import CraftContext, Tensors
from trainers.images import Images

CHUNK = (2**24, 2**26)  # bytes of images read at a time: at least, at most
TILE = 2**20  # values that a thread processes at a time, as int32: fits into a cache
DEPTH = 256  # images of a class summed in int32 at a time
NARROW = 33_025  # images per class up to which sums of products stay below 2³¹: 2³¹ / 255²

Rows = NDArray[np.int64]
Piece = tuple[int, Rows, slice]  # a class, which images of a chunk, which positions


@dataclass(frozen=True)
class Moments:
    """Exact per-class, per-pixel statistics of levels 0..255. Moments of disjoint sets add up to those of
    their union.

    `n` int64 K; `first` K,C,H,W (sums of x_c); `second` K,P,H,W (sums of x_a·x_b for the P `pairs` of
    channels); both int32 if no class has more than 33,025 images, else int64.
    """

    n: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def zeros(cls, images: Images) -> Moments:
        """Zero moments with the shapes and dtypes for these images."""
        k, (c, *size) = images.num_classes, images.shape
        kind = _kind(torch.bincount(images.y.cpu(), minlength=k))
        first, second = (torch.zeros((k, m, *size), dtype=kind) for m in (c, len(pairs(c))))
        return cls(torch.zeros(k, dtype=torch.int64), first, second)

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        kind = _kind(n)
        return Moments(
            n, self.first.to(kind) + other.first.to(kind), self.second.to(kind) + other.second.to(kind)
        )

    def __iadd__(self, other: Moments) -> Moments:
        """In-place addition, for other images of the same set: at 224 pixels and 100 classes another copy
        would take 181 MB."""
        self.n.add_(other.n)
        self.first.add_(other.first)
        self.second.add_(other.second)
        return self

    def tensors(self) -> Tensors:
        """The tensors by name, each of length K; `Moments(**tensors)` restores them."""
        return {"n": self.n, "first": self.first, "second": self.second}


def _kind(n: Tensor) -> torch.dtype:
    """The dtype that holds the sums of `n` images per class exactly."""
    return torch.int32 if not len(n) or int(n.max()) <= NARROW else torch.int64


def pairs(channels: int) -> list[tuple[int, int]]:
    """The pairs of channels a <= b, in order: 00 01 02 11 12 22."""
    return list(itertools.combinations_with_replacement(range(channels), 2))


def moments(images: Images, keep: Tensor | None = None, start: int = 0, stop: int | None = None) -> Moments:
    """The moments of the images from `start` to `stop` where `keep` (bool N) is true (default: all), in one
    exact pass. Uses the memory of a chunk and torch's number of threads."""
    adder = _Adder(Moments.zeros(images))
    at = start
    with ThreadPoolExecutor(len(adder.tiles)) as pool:
        for chunk in images.chunks(_per_chunk(images), start, stop):
            adder.add(chunk, None if keep is None else keep[at : at + len(chunk)], pool)
            at += len(chunk)
            del chunk  # free it before reading the next
    return adder.total


def gathered(
    images: Images, context: CraftContext, *, name: str = "moments", keep: Tensor | None = None
) -> Moments:
    """The moments of all images, or of those to `keep`: from the context's cache under `name`, else computed
    by its workers, each on a part of the images."""

    def take() -> Tensors:
        size = context.workers.size
        cuts = [len(images) * i // size for i in range(size + 1)]
        parts = context.workers.map(
            _of_rows, (images, keep), list(itertools.pairwise(cuts)), device=context.device
        )
        return reduce(Moments.__iadd__, parts).tensors()

    found = context.cache(name, take)
    return Moments(**(found if _are_moments(found, images) else take()))


def _are_moments(tensors: Tensors, images: Images) -> bool:
    """Whether cached tensors have the names, shapes and dtypes of these images' moments."""
    k, (c, *size) = images.num_classes, images.shape
    shapes = {"n": (k,), "first": (k, c, *size), "second": (k, len(pairs(c)), *size)}
    return {name: tuple(values.shape) for name, values in tensors.items()} == shapes and all(
        values.dtype in (torch.int64, *(() if name == "n" else (torch.int32,)))
        for name, values in tensors.items()
    )


def _of_rows(shared: tuple[Images, Tensor | None], rows: tuple[int, int], _: torch.device) -> Moments:
    return moments(*shared, *rows)


def _per_chunk(images: Images) -> int:
    """The number of images to read at a time. It grows with the size of the sums, so that a chunk has several
    images of each class; otherwise updating the sums would dominate."""
    c = images.shape[0]
    values = math.prod(images.shape)
    sums = 4 * images.num_classes * (values + values // c * len(pairs(c)))
    return max(1, min(max(CHUNK[0], 8 * sums), CHUNK[1]) // values)


class _Adder:
    """Adds chunks of images to `total`. Each thread reuses one tile: allocating new pages would cost as much
    as the arithmetic."""

    def __init__(self, total: Moments) -> None:
        self.total = total
        self.first, self.second = total.first.flatten(2).numpy(), total.second.flatten(2).numpy()
        values = max(TILE, DEPTH * self.first.shape[1])
        self.tiles = [np.empty(values, np.int32) for _ in range(torch.get_num_threads())]

    def add(self, chunk: Images, keep: Tensor | None, pool: ThreadPoolExecutor) -> None:
        labels = chunk.y.cpu().numpy()
        kept = np.arange(len(labels)) if keep is None else np.flatnonzero(keep.cpu().numpy())
        order = kept[np.argsort(labels[kept], kind="stable")]
        cuts = np.searchsorted(labels[order], np.arange(chunk.num_classes + 1))
        self.total.n.add_(torch.from_numpy(np.diff(cuts)))
        x = chunk.x.cpu().numpy().reshape(len(labels), *self.first.shape[1:])
        pieces = self._pieces(np.split(order, cuts[1:-1]))
        count = len(self.tiles)
        list(pool.map(lambda i: self._work(x, pieces[i::count], self.tiles[i]), range(count)))

    def _pieces(self, classes: list[Rows]) -> list[Piece]:
        """Pieces of work, no two of which update the same sum."""
        _, channels, positions = self.first.shape
        found: list[Piece] = []
        for k, rows in enumerate(classes):
            width = max(1, TILE // (channels * min(DEPTH, max(1, len(rows)))))
            steps = range(0, positions if len(rows) else 0, width)
            found += [(k, rows, slice(at, at + width)) for at in steps]
        return found

    def _work(self, images: NDArray[np.uint8], pieces: list[Piece], tile: NDArray[np.int32]) -> None:
        for k, rows, positions in pieces:
            first, second = self.first[k, :, positions], self.second[k, :, positions]
            for at in range(0, len(rows), DEPTH):
                some = images[rows[at : at + DEPTH], :, positions]
                x = tile[: some.size].reshape(some.shape)
                np.copyto(x, some)
                first += np.add.reduce(x, axis=0, dtype=np.int32)
                for p, (a, b) in enumerate(pairs(len(first))):
                    second[p] += np.einsum("np,np->p", x[:, a], x[:, b])  # without storing the product
