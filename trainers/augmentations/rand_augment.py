"""RandAugment (Cubuk, Zoph, Shlens, Le, NeurIPS 2020): a few random operations in a row, all at one
magnitude; operations and ranges are torchvision's."""

from __future__ import annotations

from functools import cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import apply, to_levels, to_pixels

FACTORS = ("brightness", "color", "contrast", "sharpness")  # 1 is no change
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *FACTORS)
OPS = ("identity", *SIGNED, "posterize", "solarize", "auto_contrast", "equalize")
BINS = 31
Magnitude = Annotated[int, Field(ge=0, lt=BINS)]


class RandAugment(Augmentation, kind="rand_augment"):
    """Some of 14 operations in a row; those with a direction get a random sign."""

    coloured: ClassVar[bool] = True
    num_ops: PositiveInt = 2
    """Operations in a row on each image (paper: N), drawn with replacement."""
    magnitude: Magnitude = 9
    """Strength of all operations (paper: M); 30 is the full range."""

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        _, _, h, w = x.shape
        op = torch.randint(len(OPS), (self.num_ops, len(x)), generator=gen, device=x.device)
        negative = torch.randint(2, op.shape, generator=gen, device=x.device)
        shifts = (150 / 331 * w, 150 / 331 * h)
        reach = strengths(shear=0.3, shifts=shifts, degrees=30, factor=0.9, bits=4, device=x.device)
        return augment(x, op, reach[negative, self.magnitude, op]), y


def augment(x: Tensor, op: Tensor, strength: Tensor) -> Tensor:
    """Image i under operation `OPS[op[r, i]]` with `strength[r, i]`, for each row r in turn. Pixels become
    multiples of 1/255."""
    levels = to_levels(x)
    for row, row_strength in zip(op, strength, strict=True):
        levels = apply(levels, row, row_strength, ops=OPS)
    return to_pixels(levels)


@cache
def strengths(
    *,
    shear: float,
    shifts: tuple[float, float],
    degrees: float,
    factor: float,
    bits: int,
    device: torch.device,
) -> Tensor:
    """What `trainers.operations` takes as strength, float64 2,31,14, by direction (1: negative), bin and
    operation; the last bin has the full range."""
    line = torch.linspace(0, 1, BINS)
    reach = {"shear_x": shear, "shear_y": shear, "rotate": degrees} | dict.fromkeys(FACTORS, factor)
    columns = {name: torch.linspace(0, far, BINS) for name, far in reach.items()}
    columns |= {
        f"translate_{d}": torch.linspace(0, s, BINS).trunc() for d, s in zip("xy", shifts, strict=True)
    }
    columns["posterize"] = (8 - torch.arange(BINS) / ((BINS - 1) / bits)).round()
    columns["solarize"] = torch.linspace(1, 0, BINS)
    table = torch.stack([columns.get(name, torch.zeros_like(line)) for name in OPS], 1).double()
    table[:, OPS.index("solarize")] *= 255
    both = torch.stack((table, torch.where(torch.tensor([name in SIGNED for name in OPS]), -table, table)))
    return (both + torch.tensor([float(name in FACTORS) for name in OPS])).to(device)
