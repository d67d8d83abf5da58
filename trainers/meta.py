"""Networks on the meta device, where shapes are computed and numbers are not."""

from __future__ import annotations

import torch
from torch import nn

from trainers.families import Architecture, Normalised

META = torch.device("meta")

Shape = tuple[int, int, int]


def built_on_meta(architecture: Architecture, shape: Shape, num_classes: int) -> nn.Module:
    """The network as its library builds it, without numbers. Raises RuntimeError, NotImplementedError or
    ValueError if the library needs numbers to build it."""
    with torch.random.fork_rng(devices=[]), META:
        return architecture.build(num_classes=num_classes, shape=shape)


def on_meta(architecture: Architecture, shape: Shape, num_classes: int) -> nn.Module:
    """The network without numbers, in training mode, its tensors laid out as a training lays them out; some
    libraries need numbers to build one."""
    with torch.random.fork_rng(devices=[]):
        try:
            net = built_on_meta(architecture, shape, num_classes)
        except (RuntimeError, NotImplementedError, ValueError):
            net = architecture.build(num_classes=num_classes, shape=shape)
    return Normalised(net).to(META, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
