"""What a poison is: it crafts a perturbation from clean images, and a perturbation is applied to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from trainers.images import Images
from trainers.spec import Plugin

Report = Callable[[dict[str, Any]], None]


class Perturbation(ABC):
    """A change to images: uint8 in, uint8 out; same order, same labels, same shape; the input is left as it
    was."""

    @abstractmethod
    def apply(self, images: Images) -> Images:
        """The changed images."""

    def facts(self) -> dict[str, Any]:
        """What the record beside the data set should say about this perturbation, as JSON types."""
        return {}


class Poison(Plugin, family="poison"):
    """A way to craft a perturbation. Equal images and seed give an equal one, bit for bit on a CPU."""

    wants_gpu: ClassVar[bool] = False

    @abstractmethod
    def craft(
        self, clean: Images, *, seed: int, device: torch.device, report: Report = lambda _: None
    ) -> Perturbation:
        """Craft from clean training images; long work reports on its way."""
