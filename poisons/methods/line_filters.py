"""Blur in one direction: reconstructions of VUDA and HUDA (Wang, Li, Hu, Zhou, Zhang et al.; AAAI 2025, the
paper of COIN)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from poisons.base import CraftContext, Poison
from poisons.methods.cuda import check_filter
from poisons.perturbations.filtering import LARGEST, Filtering, Rounding
from poisons.rng import rng
from trainers.images import Extent, Images

NOTE = "a reconstruction: the published filters are in a supplement that could not be read"


class LineFilter(Poison):
    """Blurs every image along one direction with the filter of its class. The published filters are in a
    supplement that could not be read: this is a reconstruction, in two variants."""

    published: ClassVar[str] = "AAAI 2025; a reconstruction"
    upright: ClassVar[bool]
    variant: Literal["taps", "scalar"] = "taps"
    """taps draws every value of a line; scalar has one value per class beside a 1, evenly spaced."""
    length: Annotated[int, Field(ge=3, le=LARGEST)] = 9
    """Values of a line, odd; 3 for `scalar`."""
    blur: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Largest value besides the 1."""
    rounding: Rounding = "truncate"
    """How values become levels."""

    @field_validator("length")
    @classmethod
    def _odd(cls, length: int) -> int:
        if length % 2 == 0:
            raise ValueError(
                f"a line needs a middle, so its length is odd; found {length}; write {length + 1}"
            )
        return length

    def check(self, clean: Extent) -> None:
        length = 3 if self.variant == "scalar" else self.length
        check_filter(self.kind, (length, 1) if self.upright else (1, length), clean)

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Filtering:
        self.check(clean.extent)
        number = clean.num_classes
        lines = (
            scalar_lines(number, self.blur)
            if self.variant == "scalar"
            else random_lines(number, self.length, self.blur, seed)
        )
        return Filtering(lines[:, :, None] if self.upright else lines[:, None, :], self.rounding, NOTE)


class Vuda(LineFilter, kind="vuda"):
    """Blurs every image along its columns with the filter of its class. VUDA's filters are in a supplement
    that could not be read: this is a reconstruction, not the published poison."""

    upright: ClassVar[bool] = True


class Huda(LineFilter, kind="huda"):
    """Blurs every image along its rows with the filter of its class. HUDA's filters are in a supplement that
    could not be read: this is a reconstruction, not the published poison."""

    upright: ClassVar[bool] = False


def random_lines(number: int, length: int, blur: float, seed: int) -> Tensor:
    """Values uniform in [0, `blur`], and a 1 at a random place: float64 `number`,`length`."""
    gen = rng(seed, "line filters")
    lines = blur * torch.rand((number, length), generator=gen, dtype=torch.float64)
    ones = torch.randint(length, (number, 1), generator=gen)
    return lines.scatter(1, ones, 1.0)


def scalar_lines(number: int, blur: float) -> Tensor:
    """(a, 1, a), where a is spaced evenly over [0, `blur`] from the first class to the last."""
    a = torch.linspace(0, blur, number, dtype=torch.float64)
    return torch.stack([a, torch.ones_like(a), a], 1)
