"""The policy of UDA (Xie, Dai, Hovy, Luong, Le, NeurIPS 2020), which the release of One-Pixel Shortcut (Wu,
Chen, Xie, Huang, ICLR 2023) calls RandAugment: twice, with probability 1/2, a random operation at a random
level."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import apply, constant, inside, to_levels, to_pixels

FACTORS = ("sharpness", "contrast", "color", "brightness")
SIGNED = ("shear_x", "translate_x", "translate_y", "shear_y", "rotate")
OPS = (
    "invert",
    "cutout",
    *FACTORS,
    *SIGNED,
    "auto_contrast",
    "posterize",
    "equalize",
    "solarize",
    "identity",
)
CUTOUT, IDENTITY = OPS.index("cutout"), OPS.index("identity")
ELSEWHERE = tuple("identity" if name == "cutout" else name for name in OPS)  # cutout is done here
LEVELS = 10


class UdaAugment(Augmentation, kind="uda_augment"):
    """Two draws from 15 operations, with replacement, each at a level uniform in 1..9 and with probability
    1/2."""

    coloured: ClassVar[bool] = True

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        n, _, h, w = x.shape
        op = torch.randint(IDENTITY, (2, n), generator=gen, device=x.device)
        level = torch.randint(1, LEVELS, (2, n), generator=gen, device=x.device)
        negative, skipped = torch.randint(2, (2, 2, n), generator=gen, device=x.device)
        row = torch.randint(h, (2, n), generator=gen, device=x.device)
        column = torch.randint(w, (2, n), generator=gen, device=x.device)
        op = op.masked_fill(skipped == 1, IDENTITY)
        return uda_augment(x, op, strengths(x.device)[negative, level, op], row, column), y


def uda_augment(x: Tensor, op: Tensor, strength: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Image i under operation `OPS[op[r, i]]` with `strength[r, i]`, for each of two rows r; a cutout is a
    square of `strength` pixels centred at (`row`, `column`). Pixels become multiples of 1/255."""
    levels, _, h, w = to_levels(x), *x.shape[1:]
    fill = (125.0, 123.0, 114.0) if x.shape[1] == 3 else (123.0,)  # CIFAR-10's mean colour, as in the release
    grey = constant(fill, x.device, x.dtype).view(-1, 1, 1)
    for o, s, i, j in zip(op, strength, row, column, strict=True):
        levels = apply(levels, o, s, ops=ELSEWHERE, fill=fill)
        half = torch.where(o == CUTOUT, s, 0).long() // 2
        levels = torch.where(inside(i - half, i + half, j - half, j + half, height=h, width=w), grey, levels)
    return to_pixels(levels)


@cache
def strengths(device: torch.device) -> Tensor:
    """UDA's strength, float64 2,10,16, by direction (1: negative), level and operation."""
    table = [[_strength(name, level) for name in OPS] for level in range(LEVELS)]
    both = torch.tensor([table, table], dtype=torch.float64)
    both[1, :, [OPS.index(name) for name in SIGNED]] *= -1
    return both.to(device)


def _strength(name: str, level: int) -> float:
    part = level / LEVELS
    if name in FACTORS:
        return part * 1.8 + 0.1
    return {
        "shear_x": part * 0.3,
        "shear_y": part * 0.3,
        "translate_x": level,
        "translate_y": level,
        "rotate": level * 3,
        "posterize": 4 - level * 4 // LEVELS,
        "solarize": 256 - level * 256 // LEVELS,
        "cutout": level * 2,
    }.get(name, 0)
