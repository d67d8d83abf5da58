"""Frequency filtering of the training images: the low-pass half of RSK+FF (Kim, Sandoval-Segura;
AdvML-Frontiers workshop at NeurIPS 2024), alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from trainers.frequencies import low_pass
from trainers.preprocessing import Preprocessing


class LowPass(Preprocessing, kind="low_pass"):
    """Keeps the lowest frequencies of each channel in its orthonormal DCT, and rounds to whole levels."""

    keep: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of the frequencies of each axis that is kept."""

    def change(self, x: Tensor) -> Tensor:
        return low_pass(x.double(), self.keep).round().clamp(0, 255).to(x.dtype)
