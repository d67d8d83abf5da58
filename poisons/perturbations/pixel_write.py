"""PixelWrite: pixels set to a colour, per class or per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor
from typing_extensions import TypedDict

from poisons.arrow import check_columns
from poisons.base import Perturbation, Tensors
from poisons.records import Side
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile


@with_config(ConfigDict(extra="forbid"))
class Fields(TypedDict):
    """The JSON values stored with the pixels: height and width of the images, and whether rows are per image
    or per class."""

    shape: Annotated[list[Side], Field(min_length=2, max_length=2)]
    per: Literal["image", "class"]


FIELDS = JsonFile[dict[str, Any]](Fields)


@dataclass(frozen=True)
class PixelWrite(Perturbation, kind="pixel_write"):
    """Sets pixel (`row`, `column`) to `colour`, for k pixels in order, so that a later one overwrites an
    earlier one at the same place. int64 M,k; int64 M,k; uint8 M,k,C. M is the number of classes, or of the
    images it was crafted from. Row -1 means no pixel."""

    row: Tensor
    column: Tensor
    colour: Tensor
    shape: tuple[int, int]  # height and width of the images
    per: Literal["image", "class"] = "class"

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        mine = self._mine(images, rows)
        x = images.x.clone(memory_format=torch.contiguous_format)
        row, column, colour = (t[mine].to(x.device) for t in (self.row, self.column, self.colour))
        for pixel in range(self.row.shape[1]):
            some = (row[:, pixel] >= 0).nonzero().squeeze(1)
            x[some, :, row[some, pixel], column[some, pixel]] = colour[some, pixel]
        return Images(x, images.y, images.num_classes)

    def _mine(self, images: Images, rows: Tensor | None) -> Tensor:
        """The row (0..M-1) of each image."""
        c, *size = images.shape
        fits = tuple(size) == self.shape and c == self.colour.shape[2]
        if self.per == "class":
            fits, mine = fits and images.num_classes <= len(self.row), images.y.cpu()
        else:
            mine = torch.arange(len(self.row)) if rows is None else rows.cpu()
            known = bool(((mine >= 0) & (mine < len(self.row))).all())
            fits = fits and len(mine) == len(images) and known
        if not fits:
            raise InputError(
                f"pixels for {len(self.row)} x {(self.colour.shape[2], *self.shape)}, a row per {self.per}, "
                f"cannot be applied to images {tuple(images.x.shape)} of {images.num_classes} classes"
            )
        return mine

    def facts(self) -> dict[str, Any]:
        """`pixels` of a class-wise write: class, row, column, colour, the best first."""
        if self.per == "image":
            return {}
        found = zip(self.row.tolist(), self.column.tolist(), self.colour.tolist(), strict=True)
        return {
            "pixels": [
                {"class": k, "row": r, "column": c, "colour": v}
                for k, pixels in enumerate(found)
                for r, c, v in zip(*pixels, strict=True)
                if r >= 0
            ]
        }

    def columns(self) -> Tensors:
        return {"row": self.row, "column": self.column, "colour": self.colour}

    def to_json(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "per": self.per}

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> PixelWrite:
        check_columns(columns, {"row": ("int64", 2), "column": ("int64", 2), "colour": ("uint8", 3)})
        fields = FIELDS.check(dict(values))
        row, column, colour = columns["row"], columns["column"], columns["colour"]
        height, width = fields["shape"]
        if not row.numel() or row.shape != column.shape or row.shape != colour.shape[:2]:
            shapes = ", ".join(str(tuple(values.shape)) for values in columns.values())
            raise DamagedError(f"its columns do not belong together: {shapes}")
        written = row >= 0
        if int(row.min()) < -1 or int(row.max()) >= height:
            raise DamagedError(f"row: a pixel is outside images of {height}x{width}")
        if bool(((column < 0) | (column >= width))[written].any()):
            raise DamagedError(f"column: a pixel is outside images of {height}x{width}")
        return cls(row, column, colour, (height, width), per=fields["per"])
