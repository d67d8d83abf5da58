"""No poison: the identity, so that clean data needs no special case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from poisons.base import CraftContext, Perturbation, Poison, Tensors
from trainers.images import Images
from trainers.stored import DamagedError


class Identity(Perturbation, kind="identity"):
    """Leaves images as they are."""

    changes = False

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        return images

    def columns(self) -> Tensors:
        return {}

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Identity:
        if columns or values:
            raise DamagedError("an identity has no columns and no values")
        return cls()


class Clean(Poison, kind="clean"):
    """Changes nothing."""

    bound: ClassVar[str] = "nothing changes"

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        return Identity()
