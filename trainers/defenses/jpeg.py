"""JPEG compression of the training images: the JPEG half of Image Shortcut Squeezing (Liu, Zhao, Larson; ICML
2023)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from trainers.families import check_grey_or_rgb
from trainers.images import Extent
from trainers.jpeg import Subsampling, jpeg
from trainers.preprocessing import Preprocessing


class Jpeg(Preprocessing, kind="jpeg"):
    """Compresses each training image, which removes high frequencies, where many bounded perturbations are.

    Published for CIFAR-10 with quality 10, at which clean accuracy is about 85 %.
    """

    quality: Annotated[int, Field(ge=1, le=100)] = 10
    """JPEG quality, as in Pillow; lower compresses more."""
    subsampling: Subsampling = "4:2:0"
    """4:2:0 halves the resolution of the colours, as Pillow does by default; 4:4:4 keeps it."""

    def check(self, images: Extent) -> None:
        check_grey_or_rgb(self.kind, images)

    def change(self, x: Tensor) -> Tensor:
        return jpeg(x, self.quality, self.subsampling)
