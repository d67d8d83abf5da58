"""Multi-step learning rate: the rate falls by a factor at fixed shares of the training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainers.families import Schedule


class MultiStep(Schedule, kind="multi_step"):
    """Multiplies by `gamma` at each of `milestones` (shares of the training); the defaults are 100 and 150
    of 200 epochs."""

    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0)] = 0.1

    def factor(self, progress: float) -> float:
        return float(self.gamma ** sum(progress >= m for m in self.milestones))
