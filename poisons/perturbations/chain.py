"""Chain: perturbations applied one after the other."""

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
    """Applies its `links` in order. It is stored as they are, a file for each, and has no columns."""

    links: tuple[Perturbation, ...]

    def apply(self, images: Images, rows: Tensor | None = None) -> Images:
        for link in self.links:
            images = link.apply(images, rows)
        return images

    def flat(self) -> tuple[Perturbation, ...]:
        """Its links, and those of the chains among them."""
        return tuple(
            end for link in self.links for end in (link.flat() if isinstance(link, Chain) else (link,))
        )

    def facts(self) -> dict[str, Any]:
        """Those of all links; of two of one name, the later link's."""
        return {name: fact for link in self.links for name, fact in link.facts().items()}

    def columns(self) -> Tensors:
        raise TypeError("a chain is stored link by link")

    @classmethod
    def restore(cls, columns: Tensors, values: Mapping[str, Any]) -> Chain:
        raise DamagedError("a chain is stored link by link, and never in one file")
