"""Cosine learning rate (Loshchilov, Hutter; ICLR 2017), without restarts, after a warm-up."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from trainers.families import Schedule

Share = Annotated[float, Field(ge=0, lt=1)]


class Cosine(Schedule, kind="cosine"):
    """Rises from 0 in a line over the first `warmup` share of the training, then falls along half a cosine
    from the full rate to `floor` times it."""

    warmup: Share = 0.0
    floor: Share = 0.0

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        angle = math.pi * (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(angle)) / 2
