"""Deconvolution-based adversarial training, the adaptive attack on CUDA by its authors (Sadasivan,
Soltanolkotabi, Feizi; CVPR 2023)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.families import Defense, Passes
from trainers.images import Extent
from trainers.pgd import Frozen
from trainers.spec import InputError

MOST = 5.0  # largest magnitude of a filter's values


class Dat(Defense, kind="dat"):
    """Convolves the images of each class with a filter that is made to raise the loss, and trains on them.

    The filters of all classes are drawn anew for each batch, as torch draws those of a transposed
    convolution, and improved by gradient ascent on the sum of the mean losses of the classes. Then each
    image is stretched to [0, 1]. The release passes the classes through the network one after the other, so
    that BatchNorm sees one class at a time; here they go together.
    """

    size: PositiveInt = 7
    """Side of the filters in pixels, odd; published as 3, 5 and 7."""
    steps: PositiveInt = 10
    """Steps of gradient ascent for each batch."""
    step: Annotated[float, Field(gt=0)] = 0.1
    """Factor on the gradient in each step (paper: eta)."""
    mode: Literal["eval", "train"] = "train"
    """Mode of the network, and so of BatchNorm, while filters are improved."""
    smoke: ClassVar[dict[str, Any]] = {"steps": 2}

    @field_validator("size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"a filter has a middle, so its size is odd: write {value + 1}")
        return value

    @property
    def passes(self) -> Passes:
        return Passes(forward=1 + self.steps, backward=1, inputs=self.steps)

    def check(self, images: Extent) -> None:
        if self.size > min(images.shape[1:]):
            raise InputError(
                f"dat: filters of {self.size} pixels are larger than the images: write a smaller size"
            )

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        labels, classes = y.argmax(1), y.shape[1]
        bound = 1 / math.sqrt(self.size**2)
        draws = torch.rand((classes, self.size**2 + 1), generator=gen, device=x.device) * 2 - 1
        filters = bound * draws
        per_class = F.one_hot(labels, classes).float().sum(0).clamp(min=1)
        with Frozen(model, training=self.mode == "train"), torch.enable_grad():
            for _ in range(self.steps):
                filters = filters.detach().clamp(-MOST, MOST).requires_grad_()
                logits = model(filtered(x, filters[labels], self.size))
                losses = F.cross_entropy(logits.float(), y, reduction="none") / per_class[labels]
                (slope,) = torch.autograd.grad(losses.sum(), filters)
                filters = filters + self.step * slope
        return stretched(filtered(x, filters.detach()[labels], self.size))


def filtered(x: Tensor, filters: Tensor, size: int) -> Tensor:
    """`x` N,C,H,W, each image's channels convolved with its own filter of `size` x `size` values and added to
    its bias, `filters` N,size²+1, with zeros outside the image."""
    n, c, h, w = x.shape
    kernels = filters[:, :-1].view(n, 1, size, size).flip(2, 3).repeat_interleave(c, 0)
    with torch.autocast(x.device.type, enabled=False):
        found = F.conv2d(x.reshape(1, n * c, h, w), kernels, padding=size // 2, groups=n * c)
    return found.view(n, c, h, w) + filters[:, -1].view(n, 1, 1, 1)


def stretched(x: Tensor) -> Tensor:
    """Each image from its smallest value, which becomes 0, to its largest, which becomes 1."""
    low = x.amin((1, 2, 3), keepdim=True)
    return (x - low) / (x.amax((1, 2, 3), keepdim=True) - low).clamp(min=1e-8)
