"""Gaussian blur of the training images: the low-pass filter that benchmarks of unlearnable examples compare
against (APBench; Qin, Gao, Zhao, Ye, Xu; TMLR 2024)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from trainers.images import Extent
from trainers.preprocessing import Preprocessing
from trainers.spec import InputError

REACH = 4  # standard deviations at which the kernel ends


class GaussianBlur(Preprocessing, kind="gaussian_blur"):
    """Convolves each training image with a Gaussian, mirrored at the border without repeating the outermost
    pixels, and rounds to whole levels.

    APBench and the release of ISS use three pixels and sigma 0.1, which changes nothing; hence the default.
    """

    sigma: Annotated[float, Field(gt=0, le=64)] = 1.0
    """Standard deviation in pixels."""

    @property
    def radius(self) -> int:
        return max(1, int(REACH * self.sigma + 0.5))

    def check(self, images: Extent) -> None:
        check_mirrored("gaussian_blur", self.radius, images, "sigma")

    def change(self, x: Tensor) -> Tensor:
        at = torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
        weights = (-0.5 * (at / self.sigma) ** 2).exp()
        kernel = (weights / weights.sum()).to(x.device)
        c, r = x.shape[1], self.radius
        padded = F.pad(x.double(), (r, r, r, r), mode="reflect")
        down = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(c, -1, -1, -1), groups=c)
        both = F.conv2d(down, kernel.view(1, 1, 1, -1).expand(c, -1, -1, -1), groups=c)
        return both.round().clamp(0, 255).to(x.dtype)


def check_mirrored(kind: str, radius: int, images: Extent, field: str) -> None:
    """InputError if images are too small to be mirrored by `radius` pixels."""
    if radius >= min(images.shape[1:]):
        raise InputError(
            f"{kind}: a filter that reaches {radius} pixels needs larger images than "
            f"{images.shape[1]}x{images.shape[2]}; write a smaller {field}"
        )
