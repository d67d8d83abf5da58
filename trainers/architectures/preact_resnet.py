"""Pre-activation ResNet (He, Zhang, Ren, Sun; ECCV 2016) with the 3x3 stem of adversarial training's
code."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.architectures.resnet import conv3x3
from trainers.families import Architecture


class PreactResNet18(Architecture, kind="preact_resnet18"):
    """ResNet-18 with BatchNorm and ReLU before each convolution; 11,172,170 parameters for 10 classes,
    11,171,146 without the final norm."""

    width: PositiveInt = 64
    """Channels of the first stage; each further stage doubles them."""
    final_norm: bool = True
    """Whether BatchNorm and ReLU follow the last block; some adversarial training code drops them."""
    smoke: ClassVar[dict[str, Any]] = {"width": 4}

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        layers: list[nn.Module] = [conv3x3(shape[0], self.width)]
        before = self.width
        for stage in range(4):
            after = self.width * 2**stage
            layers += [PreactBlock(before, after, stride=2 if stage else 1)]
            layers += [PreactBlock(after, after, stride=1)]
            before = after
        if self.final_norm:
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))


class PreactBlock(nn.Module):
    """Two pre-activated 3x3 convolutions. Where the shape changes, the shortcut projects the activated
    input."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), conv3x3(before, after, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), conv3x3(after, after)
        self.projection: nn.Module | None = None
        if stride != 1 or before != after:
            self.projection = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.projection is None else self.projection(active))
