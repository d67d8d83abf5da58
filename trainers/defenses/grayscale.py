"""Training on grey images: the grayscale half of Image Shortcut Squeezing (Liu, Zhao, Larson; ICML 2023)."""

from __future__ import annotations

from torch import Tensor

from trainers.images import Extent
from trainers.preprocessing import Preprocessing
from trainers.spec import InputError


class Grayscale(Preprocessing, kind="grayscale"):
    """Replaces every channel by the luma, which removes perturbations of colour alone.

    The luma is ITU-R 601's, rounded as Pillow does: 0.299 R + 0.587 G + 0.114 B. Test images keep their
    colours.
    """

    def check(self, images: Extent) -> None:
        if images.shape[0] != 3:
            raise InputError(
                "grayscale: only RGB images have colours to remove; the number of channels here is "
                f"{images.shape[0]}: leave the defense out"
            )

    def change(self, x: Tensor) -> Tensor:
        r, g, b = x.int().split(1, dim=1)
        luma = (19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16
        return luma.to(x.dtype).expand_as(x)
