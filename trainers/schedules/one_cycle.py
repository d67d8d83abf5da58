"""One-cycle learning rate (Smith, Topin; 2018): up in a line, then down in a line to zero. For short
trainings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainers.families import Schedule


class OneCycle(Schedule, kind="one_cycle"):
    """Rises from 0 to the full rate, then falls to 0 at the end of the training."""

    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the training over which the rate rises; it falls over the rest."""

    def factor(self, progress: float) -> float:
        return progress / self.warmup if progress < self.warmup else (1 - progress) / (1 - self.warmup)
