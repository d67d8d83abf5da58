"""UEraser (Qin, Gao, Zhao, Ye, Xu; ICCV workshops 2023): trains on the worst of several strong
augmentations."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from trainers.augmentations.trivial_augment import TrivialAugment
from trainers.defenses.worst_version import WorstVersion
from trainers.families import check_grey_or_rgb
from trainers.images import Extent
from trainers.plasma import plasma

ROUGHNESS, INTENSITY = (0.3, 0.7), (0.5, 1.0)  # published ranges, uniform


class Ueraser(WorstVersion, kind="ueraser"):
    """Augments each image several times, and minimises the largest loss of its versions.

    Each version has a plasma brightness, a plasma contrast and a shuffle of the channels, each half of the
    time, then TrivialAugment. Published as `-lite` (draws: 1), with a share of 0.3 (0.25 in APBench) and
    as `-max` (the default here).
    """

    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Probability of each of the first three changes; 1.0 in APBench."""

    def check(self, images: Extent) -> None:
        check_grey_or_rgb(self.kind, images)

    def augmented(self, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return TrivialAugment()(self._coloured(x, gen), y, gen)[0]

    def _coloured(self, x: Tensor, gen: torch.Generator) -> Tensor:
        n, c, h, w = x.shape
        chosen = torch.rand((3, n, 1, 1, 1), generator=gen, device=x.device) < self.probability
        roughness = uniform(ROUGHNESS, (2, n), gen, x.device).repeat_interleave(c, 1)
        strength = uniform(INTENSITY, (n, 1, 1, 1), gen, x.device)
        fields = (plasma(n * c, (h, w), rough, gen).view(n, c, h, w) for rough in roughness)
        brighter = x + strength * (2 * next(fields) - 1)
        x = torch.where(chosen[0], brighter.clamp(0, 1), x)
        contrast = (x - 0.5) * 4 * next(fields) + 0.5
        x = torch.where(chosen[1], contrast.clamp(0, 1), x)
        order = torch.rand((n, c), generator=gen, device=x.device).argsort(1)
        return torch.where(chosen[2], x.gather(1, order.view(n, c, 1, 1).expand_as(x)), x)


def uniform(
    bounds: tuple[float, float], size: tuple[int, ...], gen: torch.Generator, device: torch.device
) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(size, generator=gen, device=device)
