"""Cosine learning rate (Loshchilov, Hutter; ICLR 2017), without restarts, after a warm-up."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from trainers.families import Schedule

Share = Annotated[float, Field(ge=0, lt=1)]


class Cosine(Schedule, kind="cosine"):
    """Rises from 0 in a line, then falls along half a cosine to a floor."""

    warmup: Share = 0.0
    """Share of the training over which the rate first rises from 0 in a line."""
    floor: Share = 0.0
    """Final learning rate, as a share of the full one."""

    def factor(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        angle = math.pi * (progress - self.warmup) / (1 - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(angle)) / 2
