"""No poison: the identity, so that nobody needs a special case for clean data."""

from __future__ import annotations

import torch

from poisons.base import Perturbation, Poison, Report
from trainers.images import Images


class Identity(Perturbation):
    """Leaves images as they are."""

    def apply(self, images: Images) -> Images:
        return images


class Clean(Poison, kind="clean"):
    """Changes nothing."""

    def craft(
        self, clean: Images, *, seed: int, device: torch.device, report: Report = lambda _: None
    ) -> Perturbation:
        return Identity()
