"""Autoregression: noise of which every value is a sum of its neighbours before it, with the weights of its
class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, FiniteFloat, with_config
from torch import Tensor
from typing_extensions import TypedDict

from poisons.arrow import check_columns
from poisons.base import Perturbation, Tensors
from poisons.perturbations.by_image import with_noise
from poisons.perturbations.delta import are_positions
from poisons.records import Side
from poisons.rng import rng
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile

Norm = Literal["L2", "Linf"]
CROP = 4  # first rows and columns of a signal that are dropped


@with_config(ConfigDict(extra="forbid"))
class Fields(TypedDict):
    """The JSON values stored with the coefficients."""

    images: Annotated[int, Field(ge=1, le=2**40)]
    shape: Annotated[list[Side], Field(min_length=2, max_length=2)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    eps: Annotated[FiniteFloat, Field(gt=0)]
    norm: Norm


FIELDS = JsonFile[dict[str, Any]](Fields)


@dataclass(frozen=True)
class Autoregression(Perturbation, kind="autoregression"):
    """Adds to each of `images` images of `shape` (H, W) a signal of its own, which begins with Gaussian noise
    and follows the `coefficients` of its class (float64 K,C,3,3, 0 at the lower right), of size `eps` in
    `norm`, rounded to levels, and clips to 0..255. The signals are made when they are applied."""

    coefficients: Tensor
    images: int
    shape: tuple[int, int]
    seed: int
    eps: float
    norm: Norm = "L2"

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        rows = torch.arange(self.images) if rows is None else rows.cpu()
        fits = images.shape == (self.coefficients.shape[1], *self.shape)
        fits = fits and images.num_classes <= len(self.coefficients)
        if not fits or not are_positions(rows, images, self.images):
            raise InputError(
                f"autoregressive noise for {self.images} images of "
                f"{(self.coefficients.shape[1], *self.shape)} in {len(self.coefficients)} classes cannot be "
                f"applied to images {tuple(images.x.shape)} of {images.num_classes} classes"
            )
        return with_noise(images, rows, self._levels)

    def _levels(self, rows: Tensor, labels: Tensor) -> Tensor:
        return self.noise(rows, labels).mul_(255).round_().to(torch.int16)

    def noise(self, rows: Tensor, labels: Tensor) -> Tensor:
        """The changes of these images before they are rounded: float64 N,C,H,W, in units of the pixel
        range."""
        c, (h, w) = self.coefficients.shape[1], self.shape
        start = torch.zeros((len(rows), c, h + CROP, w + CROP), dtype=torch.float64)
        begin(start, (rng(self.seed, f"ar {row}") for row in rows.tolist()))
        found = signals(self.coefficients[labels], start)[:, :, CROP:, CROP:].contiguous()
        flat = found.flatten(1)
        size = flat.abs().amax(1) if self.norm == "Linf" else flat.square().sum(1).sqrt()
        return found.div_(torch.where(size > 0, size, 1.0).view(-1, 1, 1, 1)).mul_(self.eps)

    def columns(self) -> Tensors:
        return {"coefficients": self.coefficients}

    def to_json(self) -> dict[str, Any]:
        names = ("images", "seed", "eps", "norm")
        return {"shape": list(self.shape), **{name: getattr(self, name) for name in names}}

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Autoregression:
        check_columns(columns, {"coefficients": ("float64", 4)})
        coefficients, fields = columns["coefficients"], FIELDS.check(dict(values))
        if not len(coefficients) or coefficients.shape[2:] != (3, 3) or not coefficients.isfinite().all():
            raise DamagedError("coefficients: they must be finite, in windows of 3x3")
        if bool(coefficients[:, :, 2, 2].any()):
            raise DamagedError("coefficients: the one of the value itself must be 0")
        return cls(coefficients, **{**fields, "shape": tuple(fields["shape"])})


def begin(start: Tensor, gens: Iterable[torch.Generator]) -> None:
    """Draw the values that no window ends at: the first two rows and columns of signals N,C,H,W, of each with
    a generator of its own."""
    n, c, h, w = start.shape
    drawn = torch.empty((n, c, 2 * (h + w - 2)), dtype=start.dtype)
    for one, gen in zip(drawn, gens, strict=True):
        torch.randn(one.shape, generator=gen, dtype=start.dtype, out=one)
    start[:, :, :2] = drawn[:, :, : 2 * w].view(n, c, 2, w)
    start[:, :, 2:, :2] = drawn[:, :, 2 * w :].view(n, c, h - 2, 2)


def signals(coefficients: Tensor, start: Tensor) -> Tensor:
    """The signals N,C,H,W that follow `coefficients` N,C,3,3 from `start`: the value in row i, column j, from
    2 on, is the sum of those in the window of 3x3 that ends there.

    A value depends on those above and to the left of it, so all values of an anti-diagonal, whose places are
    evenly spaced, are computed at once. Sums are formed term by term, in float64, as on every machine.
    """
    n, c, h, w = start.shape
    values = start.reshape(n * c, h * w).t().contiguous()  # by place, then by image and channel
    taps = coefficients.reshape(n * c, 9).t().contiguous()
    for diagonal in range(4, h + w - 1):
        first, last = max(2, diagonal - w + 1), min(h - 1, diagonal - 2)
        at, length = first * w + diagonal - first, (last - first) * (w - 1) + 1
        total = torch.zeros((last - first + 1, n * c), dtype=start.dtype)
        for k in range(8):
            begin = at - (2 - k // 3) * w - 2 + k % 3
            total += values[begin : begin + length : w - 1] * taps[k]
        values[at : at + length : w - 1] = total
    return values.view(h, w, n, c).permute(2, 3, 0, 1)
