"""Chain: perturbations applied in sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from poisons.base import Perturbation, Tensors
from trainers.images import Images
from trainers.stored import DamagedError


@dataclass(frozen=True)
class Chain(Perturbation, kind="chain"):
    """Applies its `links` in order. Each link is stored in a file of its own; the chain itself has no
    columns."""

    links: tuple[Perturbation, ...]

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        for link in self.links:
            images = link.apply(images, rows)
        return images

    def flat(self) -> tuple[Perturbation, ...]:
        return tuple(end for link in self.links for end in link.flat())

    def facts(self) -> dict[str, Any]:
        """The facts of all links; if two have the same name, the later one wins."""
        return {name: fact for link in self.links for name, fact in link.facts().items()}

    def columns(self) -> Tensors:
        raise TypeError("a chain is stored link by link")

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Chain:
        raise DamagedError("a chain is stored link by link, never in one file")
