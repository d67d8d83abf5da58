"""Random sharpening kernel and frequency filter (Kim, Sandoval-Segura; AdvML-Frontiers workshop at NeurIPS
2024), made against poisons that convolve images, such as CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, model_validator
from torch import Tensor, nn

from trainers.augmentations.flip_crop import FlipCrop, crop
from trainers.families import Augmentation, Defense
from trainers.frequencies import low_pass
from trainers.images import Extent
from trainers.spec import InputError

CENTRE, SPREAD = 2.5, 0.1  # mean of the middle of the kernel, standard deviation of each of its values


class RskFf(Defense, kind="rsk_ff"):
    """Sharpens every training image with its own kernel, drawn anew in each epoch, keeps the low frequencies,
    and crops the padded image at random.

    The crop restores the border that sharpening costs, and takes the place of that of `flip_crop`: write
    `augmentations: [{kind: flip_crop, pad: 0}]`. Test images stay as they are.
    """

    sharpen: Literal["random", "fixed"] | None = "random"
    """How: fixed is 2.5 and -0.375 for each neighbour, random is normal around it; null does not sharpen."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = 0.3
    """Share of the frequencies of each axis that is kept (DCT); null keeps all."""
    padding: NonNegativeInt = 4
    """Zeros added on each side before the crop, in pixels; sharpening needs at least one."""

    @model_validator(mode="after")
    def _does_something(self) -> RskFf:
        if self.sharpen is None and self.keep is None:
            raise ValueError("`sharpen: null` and `keep: null` leave nothing to do; use erm")
        if self.sharpen and not self.padding:
            raise ValueError("sharpening costs a border of one pixel: `padding` is at least 1")
        return self

    def check(self, images: Extent) -> None:
        if self.sharpen and min(images.shape[1:]) < 3:
            raise InputError(f"rsk_ff: sharpening needs at least 3x3 pixels, found {images.shape[1:]}")

    def check_augmentations(self, augmentations: Sequence[Augmentation]) -> None:
        if any(isinstance(one, FlipCrop) and one.pad for one in augmentations):
            raise ValueError(
                "rsk_ff crops at random by itself: write augmentations: [{kind: flip_crop, pad: 0}], "
                "which only flips"
            )

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        shift = self.padding
        if self.sharpen:
            x, shift = sharpened(x, self._kernels(len(x), x.device, gen)).clamp_(0, 1), self.padding - 1
        if self.keep is not None:
            x = low_pass(x, self.keep).clamp_(0, 1)
        if self.sharpen:
            x = nn.functional.pad(x, (1, 1, 1, 1))
        corners = torch.randint(2 * shift + 1, (2, len(x)), generator=gen, device=x.device)
        return crop(x, corners[0], corners[1], pad=shift)

    def _kernels(self, n: int, device: torch.device, gen: torch.Generator) -> Tensor:
        """The middle of each kernel, then its values above, below, left and right: n,5."""
        spread = SPREAD if self.sharpen == "random" else 0.0
        noise = spread * torch.randn((n, 5), generator=gen, device=device)
        middle = CENTRE + noise[:, :1]
        return torch.cat([middle, -(middle - 1) / 4 - noise[:, 1:]], dim=1)


def sharpened(x: Tensor, kernels: Tensor) -> Tensor:
    """`x` N,C,H,W, each image correlated with its own kernel: N,C,H-2,W-2. `kernels` N,5 are the values in
    the middle, above, below, left and right."""
    inner = x[..., 1:-1, 1:-1], x[..., :-2, 1:-1], x[..., 2:, 1:-1], x[..., 1:-1, :-2], x[..., 1:-1, 2:]
    return sum(
        (part * k.view(-1, 1, 1, 1) for part, k in zip(inner, kernels.unbind(1), strict=True)),
        torch.zeros(()),
    )
