"""The restarts of a descent: image batches in order, by all workers, resumed after a kill."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from poisons.base import CraftContext
from poisons.methods.descent import CPU, Descended, Descent, Share, descend_share
from trainers.checkpoint import Checkpoint
from trainers.feed import place
from trainers.images import Images
from trainers.stored import DamagedError


@dataclass
class Progress:
    """What is done: whole restarts, of which the best is kept, and the first images of the next one."""

    restart: int = 0
    parts: list[Tensor] = field(default_factory=list)  # the levels of those images
    total: float = 0.0  # the sum of their objectives
    lowest: float = math.inf  # the mean objective of the best restart
    best: Tensor | None = None  # its levels; None if no restart had a finite objective

    @property
    def images(self) -> int:
        return sum(map(len, self.parts))

    def add(self, found: Descended) -> None:
        self.parts.append(found.levels)
        self.total += found.objective

    def finish(self) -> float:
        """End the restart, whose images are all done. Returns its mean objective."""
        mean = self.total / self.images
        if mean < self.lowest:
            self.best, self.lowest = torch.cat(self.parts), mean
        self.restart, self.parts, self.total = self.restart + 1, [], 0.0
        return mean

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        levels = {"levels": torch.cat(self.parts)} if self.parts else {}
        best = {} if self.best is None else {"best": self.best}
        return {"restart": self.restart, "total": self.total, "lowest": self.lowest, **levels, **best}

    @classmethod
    def restored(cls, state: dict[str, Any], clean: Images, *, restarts: int, batch_size: int) -> Progress:
        """The progress of `state`. Raises DamagedError if it is none of noise for these images."""
        restart, levels, best = state.get("restart"), state.get("levels"), state.get("best")
        if type(restart) is not int or not 0 <= restart < restarts:
            raise DamagedError(f"restart: expected 0..{restarts - 1}")
        for name in ("total", "lowest"):
            if not isinstance(state.get(name), float):
                raise DamagedError(f"{name}: expected a number")
        done = 0 if levels is None else _rows(levels, clean, "levels")
        if done >= len(clean) or done % batch_size:
            raise DamagedError("levels: expected whole batches, and not all")
        if best is not None and _rows(best, clean, "best") != len(clean):
            raise DamagedError(f"best: expected {len(clean)} images")
        parts = [] if levels is None else [levels]
        return cls(restart, parts, state["total"], state["lowest"], best)


def _rows(levels: Any, clean: Images, name: str) -> int:
    fits = isinstance(levels, Tensor) and not levels.is_floating_point() and levels.shape[1:] == clean.shape
    if not fits:
        raise DamagedError(f"{name}: expected the levels of images {clean.shape}")
    return len(levels)


def descend(descent: Descent, clean: Images, context: CraftContext, *, owner: str) -> Progress:
    """All restarts of the noise of `clean`. `descent` is the first one; `owner` names the crafting in its
    checkpoint."""
    poison, workers, several = descent.poison, context.workers, context.workers.size > 1
    if several:  # arguments are sent to other processes
        descent = replace(descent, models=copy.deepcopy(descent.models)).to(CPU)
    images = clean if several else place(clean, context.device)
    done = _resumed(clean, descent, context.checkpoint, owner)
    while done.restart < poison.restarts:
        first, at = done.images // poison.batch_size, done.images
        batches = images.chunks(poison.batch_size, at, at + workers.size * poison.batch_size)
        shares = [Share(i, alone(some) if several else some) for i, some in enumerate(batches, first)]
        restart = replace(descent, restart=done.restart)
        for found in workers.map(descend_share, restart, shares, device=context.device):
            done.add(found)
        row: dict[str, float] = {"restart": done.restart + 1, "images": done.images}
        if done.images == len(images):
            row["objective"] = round(done.finish(), 6)
        if context.checkpoint is not None and done.restart < poison.restarts and context.checkpoint.due():
            context.checkpoint.save(done.state(), owner=owner)
        context.report(row)
    return done


def alone(images: Images) -> Images:
    """A copy that shares no memory with other images, which would be sent along."""
    return images.take(torch.arange(len(images)))


def _resumed(clean: Images, descent: Descent, checkpoint: Checkpoint | None, owner: str) -> Progress:
    """What an earlier attempt has done."""
    state = None if checkpoint is None else checkpoint.load(owner=owner)
    if checkpoint is None or state is None:
        return Progress()
    poison = descent.poison
    try:
        return Progress.restored(state, clean, restarts=poison.restarts, batch_size=poison.batch_size)
    except DamagedError as damage:
        checkpoint.reject(f"was damaged ({damage})")
        return Progress()
