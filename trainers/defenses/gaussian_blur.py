"""Gaussian blur of the training images: the low-pass filter that benchmarks of unlearnable examples compare
against (APBench; Qin, Gao, Zhao, Ye, Xu; TMLR 2024)."""

from __future__ import annotations

from functools import cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainers.preprocessing import Preprocessing

REACH = 4  # standard deviations at which the kernel ends


class GaussianBlur(Preprocessing, kind="gaussian_blur"):
    """Convolves each training image with a Gaussian, mirrored at the border without repeating the outermost
    pixels, and rounds to whole levels.

    APBench and the release of ISS use three pixels and sigma 0.1, which changes nothing; hence the default.
    """

    sigma: Annotated[float, Field(gt=0, le=64)] = 1.0
    """Standard deviation in pixels."""

    def change(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        blurred = blur_matrix(h, self.sigma, x.device) @ x.double() @ blur_matrix(w, self.sigma, x.device).mT
        return blurred.round().clamp(0, 255).to(x.dtype)


@cache
def blur_matrix(size: int, sigma: float, device: torch.device) -> Tensor:
    """The matrix M, float64 of `size` x `size`, for which M @ v is v convolved with the Gaussian."""
    radius = max(1, int(REACH * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1)
    weights = (-0.5 * (offsets.double() / sigma) ** 2).exp()
    period = max(1, 2 * (size - 1))
    places = (torch.arange(size)[:, None] + offsets) % period
    mirrored = torch.where(places < size, places, period - places)
    matrix = torch.zeros((size, size), dtype=torch.float64)
    return matrix.scatter_add_(1, mirrored, (weights / weights.sum()).expand(size, -1)).to(device)
