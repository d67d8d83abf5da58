"""Images: pixels and their labels, the only thing that crosses layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trainers.checkpoint import write_tensors
from trainers.pickles import is_pickle, pickle_to_tensors
from trainers.spec import InputError
from trainers.stored import DamagedError
from trainers.tensor_files import read_tensors

Layout = Literal["N,C,H,W", "N,H,W,C", "N,H,W"]
MOST_CLASSES = 2**20


@dataclass(frozen=True)
class Extent:
    """The number, shape (C, H, W) and number of classes of images: what is known without reading pixels."""

    images: int
    shape: tuple[int, int, int]
    num_classes: int

    def at_most(self, limit: int | None) -> int:
        """The number of images, or of a subset of `limit`; None takes all."""
        return self.images if limit is None else min(self.images, limit)


@dataclass(frozen=True)
class Images:
    """`x` uint8 N,C,H,W in 0..255 and `y` int64 N in 0..num_classes-1, both on the same device."""

    x: Tensor
    y: Tensor
    num_classes: int
    dtype: ClassVar[torch.dtype] = torch.uint8

    def __post_init__(self) -> None:
        if self.x.dtype != self.dtype or self.x.ndim != 4:
            wanted = str(self.dtype).removeprefix("torch.")
            raise InputError(f"images must be {wanted} N,C,H,W, found {self.x.dtype} {tuple(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise InputError(
                f"labels must be int64 of shape ({len(self.x)},), found {self.y.dtype} {tuple(self.y.shape)}"
            )
        if len(self.y) and not 0 <= int(self.y.min()) <= int(self.y.max()) < self.num_classes:
            low, high = int(self.y.min()), int(self.y.max())
            raise InputError(f"labels must lie in 0..{self.num_classes - 1}, found {low}..{high}")

    def _with(self, x: Tensor, y: Tensor) -> Images:
        """Others of the same kind, in memory."""
        return Images(x, y, self.num_classes)

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
        return self._with(self.x.to(device), self.y.to(device))

    def contiguous(self) -> Images:
        """The images with contiguous N,C,H,W pixels; copied only if they are a view."""
        return self if self.x.is_contiguous() else self._with(self.x.contiguous(), self.y)

    def take(self, index: Tensor) -> Images:
        """The images at `index` (int64), in that order."""
        return self._with(self.x[index].contiguous(), self.y[index])

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Images]:
        """The images from `start` to `stop`, `size` at a time, in order. Images in a file are read one chunk
        at a time."""
        stop = len(self) if stop is None else min(stop, len(self))
        for at in range(start, stop, size):
            some = slice(at, min(at + size, stop))
            yield self._with(self.x[some], self.y[some])

    def save(self, file: Path) -> None:
        """Write everything to one file of tensors, which `load` and plain torch can read."""
        write_tensors(file, {"x": self.x.cpu(), "y": self.y.cpu(), "num_classes": self.num_classes})

    @classmethod
    def load(cls, file: Path) -> Images:
        """What `save` wrote: {"x": uint8 N,C,H,W, "y": int64 N, "num_classes"}, as a private memory map.

        `x` may also be N,H,W,C, or N,H,W where there is one channel, as `channels_first` reads it: then the
        pixels are a view of the map with its axes in our order.
        """
        try:
            found = read_tensors(file, links=True)
            x, y, num_classes = found["x"], found["y"], found["num_classes"]
            if type(num_classes) is not int or not 1 <= num_classes <= MOST_CLASSES:
                found = repr(num_classes)[:80]
                raise InputError(
                    f"num_classes should be a whole number in 1..{MOST_CLASSES:,}, found {found}"
                )
            return cls(channels_first(x), y, num_classes)
        except FileNotFoundError:
            raise InputError(f"there is no {file}; write it with Images.save") from None
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
            if is_pickle(file):
                raise InputError(pickle_to_tensors(file)) from None
            reason = error if isinstance(error, DamagedError) else type(error).__name__
            raise InputError(
                f"{file} holds no images ({reason}); "
                "it should be torch.save of {'x': uint8 N,C,H,W, 'y': int64 N, 'num_classes': K}"
            ) from None

    def subset(self, limit: int | None) -> Images:
        """At most `limit` of the images, as `balanced` chooses them; `self` if that is all of them."""
        return (
            self if limit is None or limit >= len(self) else self.take(self.balanced(limit).to(self.y.device))
        )

    def balanced(self, limit: int | None) -> Tensor:
        """The indices that `balanced` returns for these labels."""
        return balanced(self.y, limit)


class FloatImages(Images):
    """Images that a defense has prepared: `x` is float32, in units of the pixel range [0, 1], of which it may
    also lie outside."""

    dtype: ClassVar[torch.dtype] = torch.float32

    def _with(self, x: Tensor, y: Tensor) -> Images:
        return FloatImages(x, y, self.num_classes)


def balanced(labels: Tensor, limit: int | None) -> Tensor:
    """Ascending indices of a class-balanced subset of at most `limit` images. A smaller subset is part of
    every larger one.

    Classes take turns in the order of their labels; within a class, images come in one fixed random order.
    """
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    classes, labels = labels.cpu()[order].unique(return_inverse=True)  # numbered densely, in their order
    by_class, counts = labels.argsort(stable=True), labels.bincount(minlength=len(classes))
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    turn = torch.empty_like(labels)
    turn[by_class] = torch.arange(len(labels)) - firsts
    ranked = torch.argsort(turn * len(classes) + labels, stable=True)
    return order[ranked[:limit]].sort().values


def channels_first(values: Tensor, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Images, or noise for images, as N,C,H,W: a view of `values`, which may be N,C,H,W or N,H,W,C, or N,H,W
    where there is one channel.

    `shape` is the expected C,H,W. If it is unknown, the axis of length 1 or 3 holds the channels, else the
    shorter of the second and the last; if they are equal, the second. InputError for any other layout.
    """
    found = layout(values, shape)
    if found == "N,H,W":
        return values[:, None]
    return values.permute(0, 3, 1, 2) if found == "N,H,W,C" else values


def layout(values: Tensor, shape: tuple[int, int, int] | None = None) -> Layout:
    """How the axes of `values` are read; see `channels_first`."""
    if shape is not None:
        return _expected_layout(values, *shape)
    if values.ndim == 3:
        return "N,H,W"
    if values.ndim != 4:
        raise InputError(f"images must be N,C,H,W or N,H,W,C, found the shape {tuple(values.shape)}")
    second, last = values.shape[1], values.shape[3]
    has_channels_last = second not in (1, 3) and (last in (1, 3) or last < second)
    return "N,H,W,C" if has_channels_last else "N,C,H,W"


def _expected_layout(values: Tensor, c: int, h: int, w: int) -> Layout:
    if values.shape[1:] == (c, h, w):
        return "N,C,H,W"
    if values.shape[1:] == (h, w, c):
        return "N,H,W,C"
    if c == 1 and values.shape[1:] == (h, w):
        return "N,H,W"
    one = f", or N,{h},{w}" if c == 1 else ""
    raise InputError(f"expected N,{c},{h},{w} or N,{h},{w},{c}{one}, found the shape {tuple(values.shape)}")


def stored_layout(file: Path) -> Layout:
    """The layout of the images in a file that `Images.load` reads."""
    return layout(read_tensors(file, links=True)["x"])


def to_float(x: Tensor) -> Tensor:
    """uint8 0..255 to float32 in [0, 1]; the float32 of FloatImages stays as it is."""
    return x if x.dtype == torch.float32 else x.float() / 255


def nearest_levels(x: Tensor) -> Tensor:
    """uint8 0..255 as it is; the float32 of FloatImages clamped to [0, 1], and rounded to uint8."""
    return x if x.dtype == torch.uint8 else (x.clamp(0, 1) * 255).round().to(torch.uint8)


def batches(images: Images, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Float pixels in [0, 1] and int64 labels, `size` at a time, in `order` (default: as stored)."""
    for start in range(0, len(images if order is None else order), size):
        if order is None:
            yield to_float(images.x[start : start + size]), images.y[start : start + size]
        else:
            take = order[start : start + size]
            yield to_float(images.x[take]), images.y[take]
