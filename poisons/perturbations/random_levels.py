"""Random levels: independent noise for every value of every image."""

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
from poisons.perturbations.by_image import with_noise
from poisons.perturbations.delta import are_positions, check_levels
from poisons.records import Side
from poisons.rng import rng
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile


@with_config(ConfigDict(extra="forbid"))
class Fields(TypedDict):
    """The JSON values stored with the levels."""

    images: Annotated[int, Field(ge=1, le=2**40)]
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]


FIELDS = JsonFile[dict[str, Any]](Fields)


@dataclass(frozen=True)
class RandomLevels(Perturbation, kind="random_levels"):
    """Adds to each of `images` images of `shape` (C, H, W) noise of its own, every value drawn from `levels`
    (int8 or int16 M, of 1/255) with equal chances, and clips to 0..255. The noise is made when it is
    applied."""

    levels: Tensor
    images: int
    shape: tuple[int, ...]
    seed: int

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        rows = torch.arange(self.images) if rows is None else rows.cpu()
        if images.shape != self.shape or not are_positions(rows, images, self.images):
            raise InputError(
                f"random noise for {self.images} images of {self.shape} cannot be applied to images "
                f"{tuple(images.x.shape)}"
            )
        return with_noise(images, rows, lambda rows, _: self.noise(rows))

    def noise(self, rows: Tensor) -> Tensor:
        """The changes of these images: N,C,H,W, in levels of 1/255."""
        gens = (rng(self.seed, f"random noise {row}") for row in rows.tolist())
        return torch.stack([drawn(self.levels, self.shape, gen) for gen in gens])

    def columns(self) -> Tensors:
        return {"levels": self.levels}

    def to_json(self) -> dict[str, Any]:
        return {"images": self.images, "shape": list(self.shape), "seed": self.seed}

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> RandomLevels:
        check_columns(columns, {"levels": ("int8 or int16", 1)})
        levels, fields = columns["levels"], FIELDS.check(dict(values))
        if not len(levels):
            raise DamagedError("levels: there are none to draw from")
        check_levels(levels, "levels")
        return cls(levels, **{**fields, "shape": tuple(fields["shape"])})


def drawn(levels: Tensor, shape: tuple[int, ...], gen: torch.Generator) -> Tensor:
    """An array of that shape with values drawn from `levels`."""
    return levels[torch.randint(len(levels), shape, generator=gen)]
