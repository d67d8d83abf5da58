"""DenseNet (Huang, Liu, van der Maaten, Weinberger; CVPR 2017) with a 3x3 stem for 32-pixel images."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from trainers.architectures.resnet import conv3x3
from trainers.families import Architecture
from trainers.spec import InputError


class DenseNet121(Architecture, kind="densenet121"):
    """Blocks of 6, 12, 24 and 16 dense layers, halved in between; 6,956,298 parameters for growth 32, 10
    classes. Transitions have no ReLU, as in the paper's text and the One-Pixel Shortcut release."""

    growth: PositiveInt = 32
    """Channels that each dense layer adds (paper: growth rate k)."""
    smoke: ClassVar[dict[str, Any]] = {"growth": 4}

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        if min(shape[1:]) < 8:
            raise InputError(f"densenet121 needs images of at least 8x8 pixels, found {shape[1]}x{shape[2]}")
        channels = 2 * self.growth
        layers: list[nn.Module] = [conv3x3(shape[0], channels)]
        for stage, depth in enumerate((6, 12, 24, 16)):
            if stage:
                layers += transition(channels, channels // 2)
                channels //= 2
            for _ in range(depth):
                layers.append(DenseLayer(channels, self.growth))
                channels += self.growth
        tail = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, *tail, nn.Linear(channels, num_classes))


def transition(before: int, after: int) -> list[nn.Module]:
    """From one dense block to the next: fewer channels, half the height and width."""
    return [nn.BatchNorm2d(before), nn.Conv2d(before, after, 1, bias=False), nn.AvgPool2d(2)]


class DenseLayer(nn.Module):
    """Appends `growth` channels, computed by a pre-activated 1x1 and a 3x3 convolution, to its input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            *(nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, 4 * growth, 1, bias=False)),
            *(nn.BatchNorm2d(4 * growth), nn.ReLU(), conv3x3(4 * growth, growth)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)
