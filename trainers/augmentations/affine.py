"""Random affine maps about the centre, as torchvision has them: each point takes the nearest pixel, and zero
outside the image."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import matrix, rotation, warp

Factor = Annotated[float, Field(gt=0)]


class Affine(Augmentation, kind="affine"):
    """Turns, shears, scales and moves every image by amounts of its own, drawn uniformly."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Largest angle in degrees, in both directions."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 10.0
    """Largest angle in degrees, in both directions, by which upright lines lean."""
    scale: tuple[Factor, Factor] = (0.8, 1.2)
    """Smallest and largest factor of the size; above 1 enlarges."""
    translate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest shift in both directions, as a share of width and height; shifts are whole pixels."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: the smaller factor comes first, found {list(self.scale)}")
        return self

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        share = torch.rand(5, len(x), generator=gen, device=x.device, dtype=torch.float64)
        both, (small, large) = 2 * share - 1, self.scale
        h, w = x.shape[2:]
        return affine(
            x,
            degrees=both[0] * self.degrees,
            shear=both[1] * self.shear,
            scale=small + (large - small) * share[2],
            right=(both[3] * self.translate * w).round(),
            down=(both[4] * self.translate * h).round(),
        ), y


def affine(
    x: Tensor, *, degrees: Tensor, shear: Tensor, scale: Tensor, right: Tensor, down: Tensor
) -> Tensor:
    """Each image sheared, scaled, turned clockwise by `degrees` and moved by pixels, in this order; all
    amounts are float64 N."""
    cos, sin = rotation(degrees)
    lean = shear.deg2rad().tan()
    a, b = (cos - sin * lean) / scale, (cos * lean + sin) / scale  # the inverse: where a pixel comes from
    c, d = -sin / scale, cos / scale
    return warp(x, matrix((a, b, -a * right - b * down), (c, d, -c * right - d * down)))
