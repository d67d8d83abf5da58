"""WideResNet (Zagoruyko, Komodakis; BMVC 2016), in the form whose sizes the One-Pixel Shortcut paper gives
in its Table 3, or in the original one.

The released form has biases in its convolutions, the stride in each block's second convolution, and a last
BatchNorm of momentum 0.9.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.architectures.preact_resnet import PreactBlock
from trainers.architectures.resnet import kaiming_normal
from trainers.families import Architecture


class WideResNet(Architecture, kind="wide_resnet"):
    """WRN-depth-width: three stages of residual blocks; 36,489,290 parameters for 28-10 and 10 classes,
    36,479,194 in the original form. The paper trains 28-10 in batches of 64."""

    depth: PositiveInt = 28
    """Number of layers, 6·n + 4 and at least 10: three stages of n blocks."""
    width: PositiveInt = 10
    """Widening factor (paper: k): 16·k channels in the first stage, 64·k in the last."""
    form: Literal["released", "original"] = "released"
    """The network of the One-Pixel Shortcut release, or that of the WideResNet paper."""
    smoke: ClassVar[dict[str, Any]] = {"depth": 10, "width": 1}

    @field_validator("depth")
    @classmethod
    def _whole_blocks(cls, depth: int) -> int:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"depth must be 6·n + 4 and at least 10, such as 10, 16, 28 or 40; found {depth}"
            )
        return depth

    def recipe(self) -> dict[str, Any]:
        return {"batch_size": 64} if (self.depth, self.width) == (28, 10) else {}

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        original = self.form == "original"
        block_type = PreactBlock if original else WideBlock
        layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=not original)]
        before = 16
        for stage in range(3):
            after = 16 * self.width * 2**stage
            for block in range((self.depth - 4) // 6):
                layers.append(block_type(before, after, stride=2 if stage and not block else 1))
                before = after
        layers += [nn.BatchNorm2d(before, momentum=0.1 if original else 0.9), nn.ReLU()]
        head = nn.Linear(before, num_classes)
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        if original:
            kaiming_normal(net)
            nn.init.zeros_(head.bias)
        return net


class WideBlock(nn.Module):
    """Two pre-activated 3x3 convolutions with a shortcut, projected where the shape changes."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), nn.Conv2d(after, after, 3, stride=stride, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(out))) + self.shortcut(x)
