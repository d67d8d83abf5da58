"""Several defenses in one training."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor, nn

from trainers.families import Defense, Passes, Report
from trainers.images import Extent, Images
from trainers.spec import SEVERAL

PLAIN = Passes(forward=1, backward=1)


class Chain(Defense, kind="chain"):
    """Defenses in order, written as a list: `defense: [jpeg, pgd_at]`.

    Each prepares the images that the one before it has prepared, and perturbs the batch after it. At most one
    of them attacks the network or changes the loss.
    """

    smoke: ClassVar[dict[str, Any]] = {"parts": ["jpeg", {"kind": "pgd_at", "steps": 1}]}
    parts: tuple[Defense, ...]
    """The defenses, in order."""

    @model_validator(mode="after")
    def _sensible(self) -> Chain:
        kinds = [part.kind for part in self.parts]
        if len(kinds) < 2:
            raise ValueError("a chain has two defenses or more; write a single one without a list")
        if "erm" in kinds:
            raise ValueError(f"erm, plain training, cannot be combined with other defenses{SEVERAL}")
        if "chain" in kinds:
            raise ValueError("a chain has no chains inside; write one list")
        if twice := [kind for i, kind in enumerate(kinds) if kind in kinds[:i]]:
            raise ValueError(f"{twice[0]} is in the chain twice")
        costly = [part.kind for part in self.parts if part.passes != PLAIN]
        if len(costly) > 1:
            raise ValueError(
                f"{' and '.join(costly)} each decide which inputs a step trains on: use one of them"
            )
        floats = [part.kind for part in self.parts[:-1] if not part.whole_levels]
        if floats and (
            after := [part.kind for part in self.parts[kinds.index(floats[0]) + 1 :] if prepares(part)]
        ):
            raise ValueError(
                f"{after[0]} changes whole levels, which {floats[0]} does not leave: write it before"
            )
        late = [kind for kind, part, before in zip(kinds[1:], self.parts[1:], self.parts, strict=False)
                if prepares(part) and not prepares(before)]  # fmt: skip
        if late:
            raise ValueError(f"{late[0]} changes the images before the training: write it before the others")
        return self

    @property
    def passes(self) -> Passes:
        return next((part.passes for part in self.parts if part.passes != PLAIN), PLAIN)

    @property
    def whole_levels(self) -> bool:
        return all(part.whole_levels for part in self.parts)

    def check(self, images: Extent) -> None:
        for part in self.parts:
            part.check(images)

    def prepare(
        self, images: Images, *, device: torch.device, gen: torch.Generator, report: Report
    ) -> Images:
        for part in self.parts:
            images = part.prepare(images, device=device, gen=gen, report=report)
        return images

    def purify(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.purify(x)
        return x

    def at(self, progress: float) -> Defense:
        return self.model_copy(update={"parts": tuple(part.at(progress) for part in self.parts)})

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        for part in self.parts:
            x = part.perturb(model, x, y, gen)
        return x

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        own = next((part for part in self.parts if type(part).loss is not Defense.loss), None)
        return super().loss(model, x, y, gen) if own is None else own.loss(model, x, y, gen)


def prepares(part: Defense) -> bool:
    return type(part).prepare is not Defense.prepare
