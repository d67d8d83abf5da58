"""Median filter of the training images: the filter that removes single pixels, such as those of One-Pixel
Shortcut (Wu, Chen, Xie, Huang; ICLR 2023)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from trainers.defenses.gaussian_blur import check_mirrored
from trainers.images import Extent
from trainers.preprocessing import Preprocessing


class MedianFilter(Preprocessing, kind="median_filter"):
    """Replaces each value by the median of the square around it in its channel, mirrored at the border
    without repeating the outermost pixels."""

    size: Literal[3, 5, 7] = 3
    """Side of the square in pixels."""

    def check(self, images: Extent) -> None:
        check_mirrored("median_filter", self.size // 2, images, "size")

    def change(self, x: Tensor) -> Tensor:
        r = self.size // 2
        padded = F.pad(x.float(), (r, r, r, r), mode="reflect").to(x.dtype)
        squares = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return squares.flatten(4).median(dim=-1).values
