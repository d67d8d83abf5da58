"""Several defenses in one training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import model_validator
from torch import Tensor, nn

from trainers.families import Augmentation, Defense, Passes, Report
from trainers.images import Extent, Images
from trainers.restoration import Restoration, restorations
from trainers.spec import SEVERAL

PLAIN = Passes(forward=1, backward=1)


class Chain(Defense, kind="chain"):
    """Defenses in order, written as a list: `defense: [jpeg, pgd_at]`.

    Each prepares the images that the one before it has prepared, and perturbs the batch after it. At most one
    of them attacks the network or changes the loss.
    """

    needs: ClassVar[str] = "what its parts need"
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
            raise ValueError(f"{twice[0]} is in the chain twice; leave one out")
        if len(several := restorations(self.parts)) > 1:
            names = " and ".join(one.kind for one in several)
            raise ValueError(f"{names} each train a network to restore the images: use one of them")
        deciding = [part.kind for part in self.parts if decides(part)]
        if len(deciding) > 1:
            raise ValueError(f"{' and '.join(deciding)} each decide what a step minimises: use one of them")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> Chain:
        for before, after in pairwise(self.parts):
            if why := conflict(before, after):
                raise ValueError(why)
        return self

    @property
    def memorises(self) -> bool:
        return all(part.memorises for part in self.parts)

    @property
    def passes(self) -> Passes:
        return next((part.passes for part in self.parts if part.passes != PLAIN), PLAIN)

    @property
    def restoration(self) -> Restoration | None:
        return next(iter(restorations(self.parts)), None)

    @property
    def whole_levels(self) -> bool:
        return all(part.whole_levels for part in self.parts)

    def check(self, images: Extent) -> None:
        for part in self.parts:
            part.check(images)

    def check_augmentations(self, augmentations: Sequence[Augmentation]) -> None:
        for part in self.parts:
            part.check_augmentations(augmentations)

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
        own = next(filter(has_loss, self.parts), None)
        return super().loss(model, x, y, gen) if own is None else own.loss(model, x, y, gen)


def stage(part: Defense) -> int:
    """When it changes images: 0, as a data set; 1, before the training; 2, batch by batch or not at all."""
    if part.restoration is not None:
        return 0
    return 2 if type(part).prepare is Defense.prepare else 1


def conflict(before: Defense, after: Defense) -> str | None:
    """Why one defense cannot come right before another; None if it can."""
    for one, other in ((before, after), (after, before)):
        if not one.whole_levels and stage(other) == 2:
            return (
                f"{one.kind} changes the images before the training, and leaves values outside [0, 1], which "
                f"{other.kind} does not take: use one of them"
            )
    if not before.whole_levels:
        return (
            f"{before.kind} leaves values outside [0, 1], which {after.kind} does not take: write "
            f"{before.kind} last"
        )
    if stage(after) < stage(before):
        return f"{after.kind} changes the images before the training: write it before {before.kind}"
    if decides(before):
        return f"{after.kind} would change what {before.kind} makes of a batch: write {before.kind} last"
    return None


def decides(part: Defense) -> bool:
    """Whether it attacks the network, or changes the loss."""
    return part.passes != PLAIN or has_loss(part)


def has_loss(part: Defense) -> bool:
    return type(part).loss is not Defense.loss
