"""Random rotation about the centre, as torchvision has it: bilinear, with zeros outside the image."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import matrix, rotation, warp


class Rotate(Augmentation, kind="rotate"):
    """Turns every image by an angle of its own."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest angle in degrees; angles are uniform up to it, in both directions."""

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        share = torch.rand(len(x), generator=gen, device=x.device)
        return rotate(x, (2 * share - 1) * self.degrees), y


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Each image turned anticlockwise by its `degrees` (N)."""
    cos, sin = rotation(degrees.double())
    none = torch.zeros_like(cos)
    return warp(x, matrix((cos, -sin, none), (sin, cos, none)), mode="bilinear").clamp_(0, 1)
