"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen; CVPR 2018), in the form for 32-pixel images that this
field's code uses: plain ReLU, two strides fewer, and more projections."""

from __future__ import annotations

from torch import Tensor, nn

from trainers.families import Architecture

STAGES = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Architecture, kind="mobilenet_v2"):
    """Seventeen inverted residual blocks, size divided by 8; 2,296,922 parameters for 10 classes."""

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        layers: list[nn.Module] = [*conv_norm(shape[0], 32, 3), nn.ReLU()]
        before = 32
        for expansion, after, blocks, stride in STAGES:
            for block in range(blocks):
                step = 1 if block else stride
                layers.append(InvertedResidual(before, after, expansion=expansion, stride=step))
                before = after
        layers += [*conv_norm(before, 1280, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(1280, num_classes))


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by 3x3, shrink by 1x1; with a shortcut at stride 1,
    projected where the channels change."""

    def __init__(self, before: int, after: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * before
        self.body = nn.Sequential(
            *(*conv_norm(before, wide, 1), nn.ReLU()),
            *(*conv_norm(wide, wide, 3, stride=stride, groups=wide), nn.ReLU()),
            *conv_norm(wide, after, 1),
        )
        self.has_shortcut = stride == 1
        self.shortcut = nn.Sequential()
        if self.has_shortcut and before != after:
            self.shortcut = nn.Sequential(*conv_norm(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return out + self.shortcut(x) if self.has_shortcut else out


def conv_norm(
    before: int, after: int, size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps the size at stride 1, without bias, and its BatchNorm."""
    conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(after)
