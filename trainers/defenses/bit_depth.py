"""Bit depth reduction, one of the compressions of Image Shortcut Squeezing (Liu, Zhao, Larson; ICML 2023),
after feature squeezing (Xu, Evans, Qi; NDSS 2018)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from trainers.preprocessing import Preprocessing


class BitDepth(Preprocessing, kind="bit_depth"):
    """Keeps the highest bits of every value and clears the others, as Pillow's posterize does: with two bits,
    values are 0, 64, 128 and 192."""

    bits: Annotated[int, Field(ge=1, le=8)] = 2
    """Bits that are kept."""

    def change(self, x: Tensor) -> Tensor:
        return x & (256 - (1 << (8 - self.bits)))
