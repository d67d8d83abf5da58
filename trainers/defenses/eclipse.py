"""Purification by a diffusion model of few clean images, ECLIPSE (Wang, Hu, Zhang, Zhou, Zhang, Xu, Wan, Jin;
ESORICS 2024)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from trainers.defenses.avatar import Avatar
from trainers.diffusion import Curve
from trainers.images import Extent
from trainers.operations import constant
from trainers.spec import InputError

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


class Eclipse(Avatar, kind="eclipse"):
    """Diffusion purification with a model of few clean images, then training with weak corruptions.

    Each batch is made grey with probability `grey`, image by image, and gets Gaussian noise. The published
    model is trained on 2,000 test images; ours on training images that are held out. Its images are
    flipped at random, which stands for the published enlargement of the set.
    """

    needs: ClassVar[str] = "clean images that are not trained on, 2,000 by default"
    learns_from: Literal["clean", "held_out", "training"] = "held_out"
    time: Annotated[int, Field(ge=0, le=4000)] = 100
    """Steps of noise, of 4,000 on a cosine schedule (paper: t)."""
    denoiser_epochs: PositiveInt = 1000
    """Epochs of the denoiser's training (published: 250,000 steps)."""
    grey: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Probability that an image of a training batch is made grey (paper: p)."""
    std: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Standard deviation of the noise added to a training batch, in units of the pixel range."""

    curve: ClassVar[Curve] = "cosine"
    steps: ClassVar[int] = 4000

    @property
    def canonical(self) -> Self:
        usual = {name: type(self).model_fields[name].default for name in ("grey", "std")}
        return super().canonical.model_copy(update=usual)

    @property
    def memorises(self) -> bool:
        return False

    def check(self, images: Extent) -> None:
        super().check(images)
        if images.shape[0] not in (1, 3):
            raise InputError(
                f"eclipse: images have 1 or 3 channels, which can be made grey; found {images.shape[0]}"
            )

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        chosen = torch.rand((len(x), 1, 1, 1), generator=gen, device=x.device) < self.grey
        weights = LUMA if x.shape[1] == 3 else (1.0,)
        luma = constant(weights, x.device, x.dtype).view(1, -1, 1, 1)
        grey = (x * luma).sum(1, keepdim=True).expand_as(x)
        noise = torch.randn(x.shape, generator=gen, device=x.device)
        return (torch.where(chosen, grey, x) + self.std * noise).clamp(0, 1)
