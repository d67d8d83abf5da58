"""Subjects for tests of probes: any module and images, without a training."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tests.conftest import CPU
from trainers import Images, TrainSpec
from trainers.probe import Subject


def subject(
    model: nn.Module, train: Images, test: Images | None = None, sets: Mapping[str, Images] | None = None
) -> Subject:
    """`model` as if it had been trained on `train` from these very weights."""
    begun = copy.deepcopy(model)
    return Subject(
        model=model.eval(),
        untrained=lambda: copy.deepcopy(begun).eval(),
        spec=TrainSpec(),
        train=train,
        test=test or train,
        sets=sets or {},
        history=[],
        watched=[],
        seed=0,
        device=CPU,
    )


def random_images(count: int, shape: tuple[int, int, int] = (3, 8, 8), classes: int = 4) -> Images:
    """Pixels of no meaning, labels in turn."""
    gen = torch.Generator().manual_seed(count)
    x = torch.randint(256, (count, *shape), generator=gen, dtype=torch.uint8)
    return Images(x, torch.arange(count) % classes, classes)


def doubles(values: torch.Tensor) -> np.ndarray:
    """float64, for a second reckoning in numpy."""
    return values.detach().double().numpy()
