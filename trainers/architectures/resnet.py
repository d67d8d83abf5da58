"""ResNet (He, Zhang, Ren, Sun; CVPR 2016) with the 3x3 stem that 32-pixel images want."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.families import Architecture


class ResNet18(Architecture, kind="resnet18"):
    """Four stages of two basic blocks, `width` to 8·`width` channels; 11,173,962 parameters for width 64,
    10 classes."""

    width: PositiveInt = 64
    smoke: ClassVar[dict[str, Any]] = {"width": 4}

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        channels = [self.width * 2**stage for stage in range(4)]
        layers: list[nn.Module] = [_conv(shape[0], self.width), nn.BatchNorm2d(self.width), nn.ReLU()]
        before = self.width
        for stage, c in enumerate(channels):
            layers += [BasicBlock(before, c, stride=1 if stage == 0 else 2), BasicBlock(c, c, stride=1)]
            before = c
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them, projected where the shape changes."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, stride=stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def _conv(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
