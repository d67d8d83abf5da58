"""TrivialAugment (Mueller, Hutter, ICCV 2021): one random operation at a random magnitude; operations and
ranges are those of torchvision's TrivialAugmentWide."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trainers.augmentations.rand_augment import BINS, OPS, augment, strengths
from trainers.families import Augmentation


class TrivialAugment(Augmentation, kind="trivial_augment"):
    """One of 14 operations and one of 31 magnitudes for each image; operations with a direction get a random
    sign."""

    coloured: ClassVar[bool] = True

    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        op = torch.randint(len(OPS), (1, len(x)), generator=gen, device=x.device)
        magnitude = torch.randint(BINS, op.shape, generator=gen, device=x.device)
        negative = torch.randint(2, op.shape, generator=gen, device=x.device)
        reach = strengths(shear=0.99, shifts=(32, 32), degrees=135, factor=0.99, bits=6, device=x.device)
        return augment(x, op, reach[negative, magnitude, op]), y
