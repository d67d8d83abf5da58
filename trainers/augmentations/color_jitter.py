"""Colour jitter, as torchvision has it: brightness, contrast, saturation and hue of every image change by
random amounts in random order."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainers.families import Augmentation
from trainers.operations import grey

Amount = Annotated[float, Field(ge=0)]
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class ColorJitter(Augmentation, kind="color_jitter"):
    """Changes every image by amounts of its own, drawn uniformly, in a random order."""

    coloured: ClassVar[bool] = True
    brightness: Amount = 0.2
    """A value v scales brightness by a factor drawn from [max(0, 1 - v), 1 + v]."""
    contrast: Amount = 0.2
    """A value v scales contrast by a factor drawn from [max(0, 1 - v), 1 + v]."""
    saturation: Amount = 0.2
    """A value v scales saturation by a factor drawn from [max(0, 1 - v), 1 + v]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """A value v turns the hue by a share of the whole circle drawn from [-v, v]; 0 leaves it out."""

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        amounts = (self.brightness, self.contrast, self.saturation)
        ranges = [(max(0.0, 1 - v), 1 + v) for v in amounts] + [(-self.hue, self.hue)] * (self.hue > 0)
        share = torch.rand(2, len(x), len(ranges), generator=gen, device=x.device)
        strength = torch.stack(
            [low + (high - low) * share[0, :, i] for i, (low, high) in enumerate(ranges)], 1
        )
        return color_jitter(x, strength, share[1].argsort(1)), y


def color_jitter(x: Tensor, strength: Tensor, order: Tensor) -> Tensor:
    """Image i under the changes `order[i]`, a permutation of 0..2 or 0..3 (brightness, contrast, saturation,
    hue), in turn, change k with `strength[i, k]`."""
    for op in order.unbind(1):
        amount = strength.gather(1, op[:, None])[:, :, None, None]
        op = op[:, None, None, None]
        turned = turn(x, amount) if order.shape[1] > HUE and x.shape[1] == 3 else x
        x = (
            torch.where(op == HUE, turned, blend(x, amount, op))
            if order.shape[1] > HUE
            else blend(x, amount, op)
        )
    return x


def blend(x: Tensor, factor: Tensor, op: Tensor) -> Tensor:
    """x·factor + other·(1 - factor) in [0, 1], where the other image is black, one grey, or grey, by `op`
    N,1,1,1."""
    luma = grey(x)
    mean = luma.mean((1, 2, 3), keepdim=True).masked_fill(op == BRIGHTNESS, 0)
    other = torch.where(op == SATURATION, luma, mean)
    return other.lerp(x, factor).clamp_(0, 1)


def turn(x: Tensor, share: Tensor) -> Tensor:
    """RGB images N,3,H,W with their hue turned by `share` (N,1,1,1) of the whole circle."""
    value, chroma = x.amax(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    r, g, b = (x / chroma.clamp(min=1e-12)).split(1, 1)
    top = x.argmax(1, keepdim=True)
    sector = torch.where(top == 0, g - b, torch.where(top == 1, b - r + 2, r - g + 4)) + 6 * share
    channel = torch.cat((sector + 5, sector + 3, sector + 1), 1).remainder_(6)
    return value - chroma * torch.minimum(channel, 4 - channel).clamp_(0, 1)
