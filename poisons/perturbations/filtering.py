"""Filtering: every image convolved with the filter of its class, and brightened to the full range again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import TypedDict

from poisons.arrow import check_columns
from poisons.base import Perturbation, Tensors
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile

Rounding = Literal["truncate", "round"]
LARGEST = 63  # side of a filter
VALUES = 2**21  # pixel values filtered at a time
CACHED = 2**16  # of those summed at a time on a processor, whose cache holds them


@with_config(ConfigDict(extra="forbid"))
class Fields(TypedDict):
    """The JSON values stored with the filters."""

    rounding: Rounding
    note: NotRequired[Annotated[str, Field(max_length=1000)]]


FIELDS = JsonFile[dict[str, Any]](Fields)


@dataclass(frozen=True)
class Filtering(Perturbation, kind="filtering"):
    """Correlates every channel of an image with the filter of its class (float64 K,h,w, of odd sides; values
    0 or more), with zeros outside the image, and divides by the image's largest value. It is not bounded in
    any norm.

    Sums are formed term by term in float64, so that every machine gives the same levels. `note` goes into the
    record.
    """

    filters: Tensor
    rounding: Rounding = "truncate"
    note: str = ""

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        if images.num_classes > len(self.filters):
            raise InputError(
                f"filters for {len(self.filters)} classes cannot be applied to images of {images.num_classes}"
            )
        x = torch.empty_like(images.x, memory_format=torch.contiguous_format)
        size = max(1, VALUES // max(1, images.x[0].numel())) if len(images) else 1
        for part in torch.arange(len(images)).split(size) if len(images) else ():
            here = slice(int(part[0]), int(part[-1]) + 1)
            x[here] = self._filtered(images.x[here], images.y[here])
        return Images(x, images.y, images.num_classes)

    def _filtered(self, x: Tensor, labels: Tensor) -> Tensor:
        """uint8 N,C,H,W, filtered."""
        total = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        size = max(1, (CACHED if x.device.type == "cpu" else VALUES) // max(1, math.prod(x.shape[2:])))
        planes = (x.flatten(0, 1), total.flatten(0, 1), labels.repeat_interleave(x.shape[1]))
        for before, sums, of in zip(*(part.split(size) for part in planes), strict=True):
            self._sum(before, of, sums)
        largest = total.amax((1, 2, 3), keepdim=True)
        levels = total.div_(torch.where(largest > 0, largest, 1.0)).mul_(255)
        return (levels.floor_() if self.rounding == "truncate" else levels.round_()).to(torch.uint8)

    def _sum(self, planes: Tensor, labels: Tensor, sums: Tensor) -> None:
        """Fill `sums`, float64 N,H,W, with the correlations of channels `planes` N,H,W."""
        filters, (h, w) = self.filters.to(planes.device)[labels], self.filters.shape[1:]
        padded, term = F.pad(planes.double(), (w // 2, w // 2, h // 2, h // 2)), torch.empty_like(sums)
        sums.zero_()
        for i, j in filters.any(0).nonzero().tolist():
            window = padded[:, i : i + planes.shape[1], j : j + planes.shape[2]]
            sums += torch.mul(window, filters[:, i, j].view(-1, 1, 1), out=term)

    def facts(self) -> dict[str, Any]:
        """`filters`: of each class its gain, the sum of its values, and where the largest one is."""
        height, width = self.filters.shape[1:]
        flat = self.filters.flatten(1)
        return {
            **({"note": self.note} if self.note else {}),
            "bound": "none: the whole image changes",
            "filters": [
                {
                    "class": k,
                    "gain": round(one.sum().item(), 4),
                    "row": int(one.argmax()) // width - height // 2,
                    "column": int(one.argmax()) % width - width // 2,
                }
                for k, one in enumerate(flat)
            ],
        }

    def columns(self) -> Tensors:
        return {"filters": self.filters}

    def to_json(self) -> dict[str, Any]:
        return {"rounding": self.rounding} | ({"note": self.note} if self.note else {})

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Filtering:
        check_columns(columns, {"filters": ("float64", 3)})
        filters, fields = columns["filters"], FIELDS.check(dict(values))
        sides = filters.shape[1:]
        if not len(filters) or any(side % 2 == 0 or side > LARGEST for side in sides):
            raise DamagedError(
                f"filters: their sides must be odd and at most {LARGEST}, found {tuple(sides)}"
            )
        if not filters.isfinite().all() or bool((filters < 0).any()):
            raise DamagedError("filters: values must be finite and 0 or more")
        return cls(filters, fields["rounding"], fields.get("note", ""))
