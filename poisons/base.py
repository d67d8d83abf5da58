"""The contract of poisons: a poison crafts a perturbation from clean images, and a perturbation is applied to
images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from poisons.workers import Serial, Workers
from trainers.checkpoint import Checkpoint
from trainers.flops import Shape, Work
from trainers.images import Extent, Images
from trainers.spec import Plugin

Report = Callable[[dict[str, Any]], None]
Tensors = dict[str, Tensor]


class Perturbation(ABC):
    """A change to images, as a value that can be stored and applied again.

    uint8 in, uint8 out; same order, labels and shape; the input is not modified. Stored as tensors of equal
    length (`columns`) and JSON (`to_json`), from which `restore` makes an equal one.
    """

    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, type[Perturbation]]] = {}
    changes: ClassVar[bool] = True  # whether it changes any image

    def __init_subclass__(cls, *, kind: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        cls.kinds[kind] = cls

    @abstractmethod
    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        """The changed images. `rows` (int64 N) are their positions among the images that it was crafted from
        (default: all, in order); a perturbation that depends only on the class ignores them. InputError if it
        does not fit."""

    def flat(self) -> tuple[Perturbation, ...]:
        """The perturbations that it applies in sequence, each stored in a file of its own: itself, unless it
        is a chain."""
        return (self,)

    def facts(self) -> dict[str, Any]:
        """Facts about this perturbation for the record of the data set, as JSON types."""
        return {}

    @abstractmethod
    def columns(self) -> Tensors:
        """Its tensors, all of the same length: a row per class, or per image."""

    def to_json(self) -> dict[str, Any]:
        """Its other values, as JSON types."""
        return {}

    @classmethod
    @abstractmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Self:
        """The perturbation whose `columns()` and `to_json()` these are. Raises DamagedError if no
        perturbation of this kind has them."""


def _compute(_: str, make: Callable[[], Tensors]) -> Tensors:
    return make()


@dataclass(frozen=True)
class CraftContext:
    """The means by which a poison is crafted. Nothing in it changes the result.

    `checkpoint` is where long work resumes after a kill. `workers` are the processes that share the work.
    `cache(name, make)` returns what `make` returns, from an earlier call where that was kept; `name` names
    everything that it depends on except the clean images, the arithmetic of the device included. `imports` is
    the folder of imported perturbations.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Report = lambda _: None
    checkpoint: Checkpoint | None = None
    workers: Workers = field(default_factory=Serial)
    cache: Callable[[str, Callable[[], Tensors]], Tensors] = _compute
    imports: Path | None = None


class Poison(Plugin, family="poison", package="poisons.methods"):
    """A method that crafts perturbations. Equal images and seeds give equal ones on equal numerical
    platforms, bit for bit on a CPU."""

    wants_gpu: ClassVar[bool] = False
    needs: ClassVar[str] = "no network"  # what it takes beside the images
    bound: ClassVar[str] = "none"  # of the change of an image
    published: ClassVar[str] = ""  # where

    @property
    def transfers(self) -> bool:
        """Whether its perturbation can be applied to other images of the same classes and shape."""
        return True

    @property
    def splits(self) -> bool:
        """Whether the workers of its context share its crafting."""
        return False

    @property
    def shared(self) -> str | None:
        """The name under which it caches a network that other poisons could use; None if it caches none."""
        return None

    @property
    def imports(self) -> str | None:
        """The fingerprint of the imported perturbation that it uses; None if it is crafted."""
        return None

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        """The computation in networks of crafting from `images` images of `shape` (C, H, W), as far as it is
        known in advance; none without a network."""
        return Work()

    def shared_work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        """The part of `work` that trains the network `shared`, which is done once for all that use it."""
        return Work()

    def check(self, clean: Extent) -> None:
        """InputError if it cannot be crafted from images of this extent. Called before the work starts."""

    @abstractmethod
    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        """Craft from clean training images. Long work reports its progress."""
