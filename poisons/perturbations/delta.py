"""Delta: a signed change of every pixel value, one per image, per class or for all, in whole levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from poisons.arrow import check_columns
from poisons.base import Perturbation, Tensors
from trainers.images import Images
from trainers.spec import InputError, LevelEps
from trainers.stored import DamagedError, JsonFile

Application = Literal["signed", "released_em", "released_ops"]
Per = Literal["image", "class", "universal"]


NoiseEps = LevelEps
"""The budget of noise that is added in whole levels."""


CHUNK = 2**22  # values converted at a time, since float32 noise may be as large as the images


@with_config(ConfigDict(extra="forbid"))
class Fields(TypedDict):
    """The JSON values stored with the levels."""

    per: Per


FIELDS = JsonFile[dict[str, Any]](Fields)


@dataclass(frozen=True)
class Delta(Perturbation, kind="delta"):
    """Adds `delta` (int8 or int16 M,C,H,W, in levels of 1/255) and clips to 0..255. M is the number of images
    it was crafted from, the number of classes, or 1. `facts_` goes into the record."""

    delta: Tensor
    per: Per = "image"
    facts_: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        if self.per == "class":
            rows = images.y
        if self.per == "universal":
            rows = torch.zeros_like(images.y)
        if not self._fits(images, rows):
            one = "one for all" if self.per == "universal" else f"one per {self.per}"
            raise InputError(
                f"a perturbation of {tuple(self.delta.shape)} ({one}) cannot be applied to images "
                f"{tuple(images.x.shape)} of {images.num_classes} classes"
            )
        mine = self.delta if rows is None else self.delta[rows.to(self.delta.device)]
        x = (images.x.to(torch.int16) + mine.to(images.x.device)).clamp(0, 255).to(torch.uint8)
        return Images(x, images.y, images.num_classes)

    def _fits(self, images: Images, rows: Tensor | None) -> bool:
        if images.shape != tuple(self.delta.shape[1:]):
            return False
        if self.per == "class":
            return images.num_classes <= len(self.delta)
        if self.per == "universal":
            return len(self.delta) == 1
        if rows is None:
            return len(images) == len(self.delta)
        return are_positions(rows, images, len(self.delta))

    def facts(self) -> dict[str, Any]:
        return dict(self.facts_)

    def columns(self) -> Tensors:
        return {"delta": self.delta}

    def to_json(self) -> dict[str, Any]:
        return {"per": self.per}

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Delta:
        check_columns(columns, {"delta": ("int8 or int16", 4)})
        delta, per = columns["delta"], FIELDS.check(dict(values))["per"]
        if not len(delta) or (per == "universal" and len(delta) != 1):
            raise DamagedError(f"delta: {len(delta)} rows do not fit per: {per}")
        check_levels(delta, "delta")
        return cls(delta, per)


def are_positions(rows: Tensor, images: Images, number: int) -> bool:
    """Whether `rows` can be the positions of `images` among `number` images."""
    inside = not len(rows) or 0 <= int(rows.min()) <= int(rows.max()) < number
    return inside and len(rows) == len(images)


def check_levels(levels: Tensor, column: str) -> None:
    """Raises DamagedError unless the levels, int8 or int16, are in -255..255."""
    if levels.dtype == torch.int16 and levels.numel():
        low, high = (int(end) for end in levels.aminmax())
        if low < -255 or high > 255:
            raise DamagedError(f"{column}: levels must be in -255..255, found {low}..{high}")


def whole_levels(noise: Tensor, application: Application, eps: Fraction | None = None) -> Tensor:
    """Float noise M,C,H,W (in units of the pixel range) as whole levels on the host, int8 if all fit, else
    int16.

    `signed` rounds, never beyond `eps`. The other two reproduce released code: `released_em` (Huang et al.)
    drops negative values before adding, `released_ops` (Wu et al.) does not; both then truncate, so
    `released_ops` may go one level below -eps. (Huang et al. add in float32: for noise within 1e-4 of a whole
    level the result depends on the pixel, and may be one level off.)
    """
    limit = 255 if eps is None else math.floor(eps * 255)
    ends = torch.stack(noise.aminmax()) if noise.numel() else noise.new_zeros(2)
    if not ends.isfinite().all():
        raise InputError("noise must be finite; some values are not")
    ends = _levels(ends, application, limit)
    small = bool((ends >= -128).all() and (ends <= 127).all())
    levels = torch.empty(noise.shape, dtype=torch.int8 if small else torch.int16)
    rows = max(1, CHUNK // max(1, math.prod(noise.shape[1:])))
    for target, some in zip(levels.split(rows), noise.split(rows), strict=True):
        target.copy_(_levels(some, application, limit))
    return levels


def _levels(noise: Tensor, application: Application, limit: int) -> Tensor:
    """The levels of `whole_levels` in floating point; monotonic in the noise."""
    if application == "released_em":
        return (noise.float() * 255).clamp(0, 255).floor()
    levels = noise.double() * 255
    if application == "released_ops":
        return levels.floor().clamp(-255, 255)
    return levels.round().clamp(-limit, limit)
