"""VGG (Simonyan, Zisserman; ICLR 2015) with BatchNorm and a small classifier for 32-pixel images."""

from __future__ import annotations

from pydantic import NonNegativeInt
from torch import nn

from trainers.families import Architecture


class Vgg16Bn(Architecture, kind="vgg16_bn"):
    """Thirteen 3x3 convolutions and a classifier; 15,253,578 parameters for 10 classes, 14,728,266 without
    hidden layers."""

    hidden: NonNegativeInt = 2
    """Hidden linear layers of 512 units, with dropout 0.5; the One-Pixel Shortcut release has 2."""

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        layers: list[nn.Module] = []
        before = shape[0]
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # so that 28 pixels outlast five of them
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for _ in range(self.hidden):
            layers += [nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.Linear(512, num_classes))
