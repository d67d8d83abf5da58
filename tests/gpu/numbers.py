"""Weights of networks as numbers that can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of all weights and buffers, on the host."""
    return [value.detach().cpu().clone() for value in model.state_dict().values()]


def apart(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The L2 distance of all weights together."""
    return sum(((x.double() - y.double()) ** 2).sum().item() for x, y in zip(a, b, strict=True)) ** 0.5


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether all are equal bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
