"""Defenses that train a network to restore the training images, before and apart from the training on them.

They are costly, so a sweep restores a data set once, for all trainings on it: `DataSpec.restored_by`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from trainers.checkpoint import Checkpoint
from trainers.families import Defense, Report
from trainers.flops import Shape, Work
from trainers.images import Images
from trainers.spec import InputError

Origin = Literal["clean", "held_out"]


@dataclass(frozen=True)
class CleanImages:
    """Clean images that a restoration learns from: those under the training images (`clean`), or `number`
    others of the same source (`held_out`)."""

    origin: Origin
    number: int | None = None


def _compute(_: str, make: Callable[[], Tensor]) -> Tensor:
    return make()


@dataclass(frozen=True)
class RestorationContext:
    """The means by which images are restored. Only `seed` changes the result.

    `checkpoint` is where the work resumes after a kill. `cache(name, make)` returns what `make` returns, from
    an earlier call where that was kept; `name` names everything that it depends on except the images that
    are learnt from: the clean images if there are any, else those to restore.
    """

    device: torch.device
    seed: int = 0
    report: Report = lambda _: None
    checkpoint: Checkpoint | None = None
    cache: Callable[[str, Callable[[], Tensor]], Tensor] = _compute


@dataclass(frozen=True)
class Restored:
    """Restored images (uint8, with the labels and shape of those given), and facts about the work as JSON
    types."""

    images: Images
    facts: dict[str, Any] = field(default_factory=dict)


class Restoration(Defense):
    """Maps all training images to restored ones. Test images stay as they are, as published."""

    @property
    def memorises(self) -> bool:
        return True

    @property
    def restoration(self) -> Restoration | None:
        return self

    @property
    def clean_images(self) -> CleanImages | None:
        """The clean images that it learns from besides the training images; None if it needs none."""
        return None

    @property
    def canonical(self) -> Self:
        """The same restoration, with settings that do not change the restored images at their defaults."""
        return self

    @property
    def shared(self) -> str | None:
        """The name under which it caches a network that other restorations could use; None if it caches
        none."""
        return None

    @abstractmethod
    def restore(self, images: Images, clean: Images | None, context: RestorationContext) -> Restored:
        """The images restored. `clean` are the `clean_images`, if it asks for any. DivergenceError,
        OutOfMemoryError, and InputError if they do not fit."""

    @abstractmethod
    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        """The approximate work of restoring that many images, the training of the network included."""

    def shared_work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        """The part of `work` that trains the network `shared`, which is done once for all that use it."""
        return Work()


def restore(defense: Defense, images: Images, context: RestorationContext) -> Images:
    """The images as the restoration of `defense` leaves them, outside a sweep. InputError if it learns from
    clean images, which only a sweep knows."""
    one = defense.restoration
    if one is None:
        return images
    if one.clean_images is not None:
        raise InputError(
            f"{one.kind} learns from clean images, which only a sweep has: use opsctl sweep, or restore the "
            "images first"
        )
    return one.restore(images, None, context).images


def restorations(parts: Sequence[Defense]) -> list[Restoration]:
    """The restorations among the parts of a chain."""
    return [found for part in parts if (found := part.restoration) is not None]
