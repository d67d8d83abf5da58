"""LeNet-5 (LeCun, Bottou, Bengio, Haffner; Proc. IEEE 1998), in the form of the One-Pixel Shortcut paper:
ReLU, max pooling."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from trainers.families import Architecture
from trainers.spec import InputError


class LeNet5(Architecture, kind="lenet5"):
    """Two 5x5 convolutions and three linear layers; 62,006 parameters for 3x32x32 and 10 classes."""

    memorises: ClassVar[bool] = False

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        c, h, w = shape
        features = 16 * (((h - 4) // 2 - 4) // 2) * (((w - 4) // 2 - 4) // 2)
        if min(h, w) < 16:
            raise InputError(f"lenet5 needs images of at least 16x16 pixels, found {h}x{w}")
        return nn.Sequential(
            *(nn.Conv2d(c, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(features, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, num_classes)),
        )
