"""A random share of each class; smaller shares are part of larger ones."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified(labels: Tensor, num_classes: int, share: float, gen: torch.Generator) -> Tensor:
    """Which images belong to the share; bool N. From n images of a class it takes round(share·n), at least
    one if there are any. The choice depends only on the state of `gen` (on a CPU), so with equal states a
    smaller share is part of every larger one."""
    order = torch.randperm(len(labels), generator=gen)
    order = order[torch.argsort(labels.cpu()[order], stable=True)]  # class by class, random within
    counts = torch.bincount(labels.cpu(), minlength=num_classes).tolist()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for mine in order.split(counts):
        chosen[mine[: max(1, round(share * len(mine)))]] = True
    return chosen
