"""Particle swarm optimisation (Kennedy, Eberhart 1995): a search without gradients in a few dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

INERTIA, PULL = 0.5, 0.3  # of the velocity, and towards the best places


@dataclass(frozen=True)
class Swarm:
    """Particles at `positions` P,D with `velocities`, the best place of each and its value (lower is better),
    and the best of all."""

    positions: Tensor
    velocities: Tensor
    own: Tensor
    values: Tensor
    best: Tensor
    value: float

    @classmethod
    def begin(cls, particles: int, size: int, gen: torch.Generator, start: float, speed: float) -> Self:
        """Uniform positions within ±`start` and velocities within ±`speed`."""
        positions, velocities = (
            (2 * torch.rand((particles, size), generator=gen, dtype=torch.float64) - 1) * largest
            for largest in (start, speed)
        )
        values = torch.full((particles,), math.inf, dtype=torch.float64)
        return cls(positions, velocities, positions, values, torch.zeros(size, dtype=torch.float64), math.inf)

    def judged(self, values: Sequence[float]) -> Self:
        """The same with the values of all positions."""
        found = torch.tensor(values, dtype=torch.float64)
        better = found < self.values
        own = torch.where(better[:, None], self.positions, self.own)
        kept = torch.where(better, found, self.values)
        first = int(found.nan_to_num(math.inf).argmin())
        if values[first] < self.value:
            return replace(self, own=own, values=kept, best=self.positions[first], value=values[first])
        return replace(self, own=own, values=kept)

    def moved(self) -> Self:
        """One step: on with the old velocity, and towards the own best place and the best of all."""
        pull = PULL * (self.own - self.positions) + PULL * (self.best - self.positions)
        velocities = INERTIA * self.velocities + pull
        return replace(self, positions=self.positions + velocities, velocities=velocities)
