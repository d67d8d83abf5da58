"""Images: uint8 pixels and their labels, the only thing that crosses layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainers.checkpoint import write_tensors
from trainers.spec import InputError


@dataclass(frozen=True)
class Extent:
    """How many images of what shape (C, H, W) in how many classes: what there is to know without pixels."""

    images: int
    shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class Images:
    """`x` uint8 N,C,H,W in 0..255 and `y` int64 N in 0..num_classes-1, both on one device."""

    x: Tensor
    y: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4:
            raise InputError(f"images must be uint8 N,C,H,W, found {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise InputError(
                f"labels must be int64 of shape ({len(self.x)},), found {self.y.dtype} {tuple(self.y.shape)}"
            )
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < self.num_classes:
            low, high = int(self.y.min()), int(self.y.max())
            raise InputError(f"labels must lie in 0..{self.num_classes - 1}, found {low}..{high}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, c, h, w = self.x.shape
        return c, h, w

    @property
    def extent(self) -> Extent:
        return Extent(len(self), self.shape, self.num_classes)

    def to(self, device: torch.device) -> Images:
        return Images(self.x.to(device), self.y.to(device), self.num_classes)

    def take(self, index: Tensor) -> Images:
        """The images at `index` (int64), in that order."""
        return Images(self.x[index], self.y[index], self.num_classes)

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Images]:
        """The images from `start` to `stop`, `size` at a time, in order. Images that lie in a file are read
        one chunk at a time, in memory of that size."""
        stop = len(self) if stop is None else min(stop, len(self))
        for at in range(start, stop, size):
            some = slice(at, min(at + size, stop))
            yield Images(self.x[some], self.y[some], self.num_classes)

    def save(self, file: Path) -> None:
        """Write all of it as one file of tensors, which `load` and plain torch read."""
        write_tensors(file, {"x": self.x.cpu(), "y": self.y.cpu(), "num_classes": self.num_classes})

    @classmethod
    def load(cls, file: Path) -> Images:
        """What `save` wrote: {"x": uint8 N,C,H,W, "y": int64 N, "num_classes"}, as a private memory map."""
        try:
            found = torch.load(file, weights_only=True, mmap=True)
            return cls(found["x"], found["y"], found["num_classes"])
        except FileNotFoundError:
            raise InputError(f"there is no {file}; write it with Images.save") from None
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
            raise InputError(
                f"{file} holds no images ({type(error).__name__}); "
                "it should be torch.save of {'x': uint8 N,C,H,W, 'y': int64 N, 'num_classes': K}"
            ) from None

    def subset(self, limit: int | None) -> Images:
        """At most `limit` of the images, as `balanced` chooses; these very images if that is all of them."""
        return (
            self if limit is None or limit >= len(self) else self.take(self.balanced(limit).to(self.y.device))
        )

    def balanced(self, limit: int | None) -> Tensor:
        """Ascending indices of a class-balanced subset of at most `limit` images, as `balanced` has it."""
        return balanced(self.y, self.num_classes, limit)


def balanced(labels: Tensor, num_classes: int, limit: int | None) -> Tensor:
    """Ascending indices of a class-balanced subset of at most `limit` images; smaller subsets lie inside
    larger.

    Classes take turns in the order of their labels, each giving its images in one fixed random order.
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    labels = labels.cpu()[order]
    turn = torch.empty_like(labels)
    for k in range(num_classes):
        mine = labels == k
        turn[mine] = torch.arange(int(mine.sum()))
    ranked = torch.argsort(turn * num_classes + labels, stable=True)
    return order[ranked[:limit]].sort().values


def to_float(x: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [0, 1]."""
    return x.float() / 255


def batches(images: Images, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Float pixels in [0, 1] and int64 labels, `size` at a time, in `order` (default: as they stand)."""
    for start in range(0, len(images), size):
        if order is None:
            yield to_float(images.x[start : start + size]), images.y[start : start + size]
        else:
            take = order[start : start + size]
            yield to_float(images.x[take]), images.y[take]
