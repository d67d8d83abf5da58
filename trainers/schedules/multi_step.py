"""Multi-step learning rate: the rate falls by a factor at fixed shares of the training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from trainers.families import Schedule


class MultiStep(Schedule, kind="multi_step"):
    """Multiplies the rate by a factor at each milestone; the defaults are epochs 100 and 150 of 200."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """Ascending shares of the training, each in (0, 1), at which the rate falls."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor on the learning rate at each milestone."""

    @field_validator("milestones")
    @classmethod
    def _shares(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [m for m in milestones if not 0 < m < 1]
        if wrong:
            raise ValueError(
                f"milestones are shares of the training, between 0 and 1; found {wrong[0]:g}: "
                "for epochs 100 and 150 of 200 write [0.5, 0.75]"
            )
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"milestones must ascend; found {list(milestones)}")
        return milestones

    def factor(self, progress: float) -> float:
        return float(self.gamma ** sum(progress >= m for m in self.milestones))
