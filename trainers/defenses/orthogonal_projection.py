"""Orthogonal projection (Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein; NeurIPS 2023): removes what a
linear classifier learns from the training images."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from trainers.families import Defense, Report
from trainers.images import Extent, FloatImages, Images, to_float
from trainers.preprocessing import per_chunk
from trainers.spec import InputError

DROPS = (0.5, 0.75)  # shares of the epochs after which the learning rate is divided by ten


class OrthogonalProjection(Defense, kind="orthogonal_projection"):
    """Fits a linear classifier to the training images, and projects them onto the space orthogonal to its
    weights.

    The projected images are float32, neither clamped nor rounded, so it is the last of a chain; augmentations
    that work on levels clamp them, and so do `rotate` and `color_jitter`. Undoes perturbations that are
    nearly the same for a class. Test images stay as they are. Published with `affine` (first an angle, then
    shear and scale), `color_jitter`, `flip_crop` and `cutmix`.
    """

    linear_epochs: PositiveInt = 20
    """Passes over the images for the linear classifier."""
    linear_lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate of plain SGD for the linear classifier; divided by ten at half and three quarters."""
    linear_batch_size: PositiveInt = 1024
    """Images of one step of the linear classifier; 128, say, of 5,000 in all."""

    @property
    def memorises(self) -> bool:
        return True

    @property
    def whole_levels(self) -> bool:
        return False

    def check(self, images: Extent) -> None:
        if images.num_classes >= math.prod(images.shape):
            raise InputError(
                f"orthogonal_projection: it removes a direction for each of {images.num_classes} classes, "
                f"and these images have only {math.prod(images.shape)} values: leave the defense out"
            )

    def prepare(
        self, images: Images, *, device: torch.device, gen: torch.Generator, report: Report
    ) -> Images:
        basis = orthonormal(self._weights(images, device, gen, report))
        done = torch.empty(images.x.shape, dtype=torch.float32)
        size = per_chunk(images)
        for i, some in enumerate(images.chunks(size)):
            done[i * size : i * size + len(some)] = projected(to_float(some.x.to(device)), basis).cpu()
        return FloatImages(done, images.y.cpu(), images.num_classes)

    def _weights(self, images: Images, device: torch.device, gen: torch.Generator, report: Report) -> Tensor:
        """The weights C,d of the linear classifier, without bias. Images come in random order: the release
        takes them as they are stored, which fails if they are sorted by class."""
        size = math.prod(images.shape)
        bound = 1 / math.sqrt(size)
        weights = bound * (2 * torch.rand((images.num_classes, size), generator=gen) - 1).to(device)
        for epoch in range(self.linear_epochs):
            lr = self.linear_lr * 0.1 ** sum(epoch >= drop * self.linear_epochs for drop in DROPS)
            for take in torch.randperm(len(images), generator=gen).split(self.linear_batch_size):
                some = images.take(take.to(images.x.device))
                x, y = to_float(some.x.to(device)).flatten(1), some.y.to(device)
                error = F.softmax(x @ weights.mT, dim=1) - F.one_hot(y, images.num_classes)
                weights -= lr / len(x) * (error.mT @ x)
            report({"prepared": (epoch + 1) / self.linear_epochs})
        return weights


def orthonormal(weights: Tensor) -> Tensor:
    """An orthonormal basis d,C of the space that the rows of `weights` C,d span, each of which is normalised
    first."""
    return torch.linalg.qr(F.normalize(weights, dim=1).mT).Q


def projected(x: Tensor, basis: Tensor) -> Tensor:
    """`x` N,C,H,W without its components along the columns of `basis`."""
    flat = x.flatten(1)
    return (flat - (flat @ basis) @ basis.mT).view_as(x)
