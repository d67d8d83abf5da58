"""Median filter of the training images: the filter that removes single pixels, such as those of One-Pixel
Shortcut (Wu, Chen, Xie, Huang; ICLR 2023)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.images import Extent
from trainers.preprocessing import Preprocessing
from trainers.spec import InputError

# Pairs to put in order, after which the fifth of nine values is their median (Paeth, Graphics Gems, 1990)
ORDER = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)


class MedianFilter(Preprocessing, kind="median_filter"):
    """Replaces each value by the median of the square around it in its channel, mirrored at the border
    without repeating the outermost pixels."""

    size: Literal[3, 5, 7] = 3
    """Side of the square in pixels."""

    def check(self, images: Extent) -> None:
        if self.size // 2 >= min(images.shape[1:]):
            raise InputError(
                f"median_filter: squares of {self.size} pixels are too large for images of "
                f"{images.shape[1]}x{images.shape[2]}; write a smaller size"
            )

    def change(self, x: Tensor) -> Tensor:
        r = self.size // 2
        padded = F.pad(x.float(), (r, r, r, r), mode="reflect").to(x.dtype)
        squares = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return median_of_nine(squares) if self.size == 3 else squares.flatten(4).median(dim=-1).values


def median_of_nine(squares: Tensor) -> Tensor:
    """The median of each square of ...,3,3 values."""
    values = [squares[..., i, j] for i in range(3) for j in range(3)]
    for low, high in ORDER:
        a, b = values[low], values[high]
        values[low], values[high] = torch.minimum(a, b), torch.maximum(a, b)
    return values[4]
