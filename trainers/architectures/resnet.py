"""ResNet (He, Zhang, Ren, Sun; CVPR 2016), with a 3x3 stem for 32-pixel images or the paper's 7x7 one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.families import Architecture


def conv3x3(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def kaiming_normal(net: nn.Module) -> None:
    """Redraw every convolution's weights with variance 2 / fan_out, for ReLU networks (He et al., ICCV
    2015)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them, projected where the shape changes."""

    expansion = 1

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(before, width, stride=stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.shortcut = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut around them; the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        after = self.expansion * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride=stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = _shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(Architecture):
    """Four stages of residual blocks on `width` to 8·`width` channels. Weights are PyTorch's own draws with
    the `cifar` stem, Kaiming normal ones, as in that network, with `imagenet`."""

    blocks: ClassVar[tuple[int, int, int, int]]
    block: ClassVar[type[BasicBlock | Bottleneck]]
    width: PositiveInt = 64
    """Channels of the first stage; each further stage doubles them."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """First layers: a 3x3 convolution, or the paper's 7x7 one and a pooling, which quarter the size."""
    smoke: ClassVar[dict[str, Any]] = {"width": 4}

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        layers, before = self._stem(shape[0]), self.width
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                layers.append(self.block(before, width, stride=2 if stage and not block else 1))
                before = width * self.block.expansion
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
        net = nn.Sequential(*layers)
        if self.stem == "imagenet":
            kaiming_normal(net)
        return net

    def _stem(self, channels: int) -> list[nn.Module]:
        if self.stem == "cifar":
            return [conv3x3(channels, self.width), nn.BatchNorm2d(self.width), nn.ReLU()]
        conv = nn.Conv2d(channels, self.width, 7, stride=2, padding=3, bias=False)
        return [conv, nn.BatchNorm2d(self.width), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)]


class ResNet18(ResNet, kind="resnet18"):
    """Four stages of two basic blocks; 11,173,962 parameters for width 64 and 10 classes."""

    blocks = (2, 2, 2, 2)
    block = BasicBlock


class ResNet34(ResNet, kind="resnet34"):
    """Stages of 3, 4, 6 and 3 basic blocks; 21,282,122 parameters for width 64 and 10 classes."""

    blocks = (3, 4, 6, 3)
    block = BasicBlock


class ResNet50(ResNet, kind="resnet50"):
    """Stages of 3, 4, 6 and 3 bottlenecks; 23,520,842 parameters for width 64 and 10 classes."""

    blocks = (3, 4, 6, 3)
    block = Bottleneck


def _shortcut(before: int, after: int, stride: int) -> nn.Module:
    if stride == 1 and before == after:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
