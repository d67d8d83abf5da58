"""Patches: squares of one colour change each, added to every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor
from typing_extensions import TypedDict

from poisons.arrow import check_columns
from poisons.base import Perturbation, Tensors
from poisons.perturbations.delta import Delta, check_levels
from poisons.records import Side
from trainers.images import Images
from trainers.stored import DamagedError, JsonFile


@with_config(ConfigDict(extra="forbid"))
class Fields(TypedDict):
    """The JSON values stored with the levels: the side of a patch, height and width of the images."""

    patch: Side
    shape: Annotated[list[Side], Field(min_length=2, max_length=2)]


FIELDS = JsonFile[dict[str, Any]](Fields)


@dataclass(frozen=True)
class Patches(Perturbation, kind="patches"):
    """Adds to image i `levels[i]` (int16 M,C,h,w, in levels of 1/255), each value over a square of `patch`
    pixels, cut off at the lower and right edge, and clips to 0..255."""

    levels: Tensor
    patch: int
    shape: tuple[int, int]  # height and width of the images

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        mine = self.levels if rows is None else self.levels[rows.to(self.levels.device)]
        height, width = self.shape
        wide = mine.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return Delta(wide[:, :, :height, :width]).apply(images)

    def columns(self) -> Tensors:
        return {"levels": self.levels}

    def to_json(self) -> dict[str, Any]:
        return {"patch": self.patch, "shape": list(self.shape)}

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Patches:
        check_columns(columns, {"levels": ("int16", 4)})
        levels, fields = columns["levels"], FIELDS.check(dict(values))
        patch, (height, width) = fields["patch"], fields["shape"]
        wanted = (-(-height // patch), -(-width // patch))
        if not len(levels) or tuple(levels.shape[2:]) != wanted:
            raise DamagedError(
                f"levels: {tuple(levels.shape)} are not the {wanted} patches of {patch} pixels"
            )
        check_levels(levels, "levels")
        return cls(levels, patch, (height, width))


def corners(shape: tuple[int, int], patch: int) -> Tensor:
    """The number of pixels of each patch: int64 h,w."""
    height, width = (torch.full((-(-side // patch),), patch) for side in shape)
    height[-1] -= len(height) * patch - shape[0]
    width[-1] -= len(width) * patch - shape[1]
    return height[:, None] * width
