"""What processes ask of a cluster, and how many more of them it has room for. Pure.

Ray places processes on machines and GPUs. These counts only keep the number that wait for a place small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

TINY = 1e-6  # shares such as 1/3 do not add up to 1


@dataclass(frozen=True)
class Request:
    """What a process asks of one machine: processors, and GPUs or a share of one. `avoid` has the ids of the
    machines on which it must not run."""

    cpus: float
    gpus: float = 0.0
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Claims:
    """What takes precedence over trainings, builders of data sets and profiling tasks: those that hold their
    resources, and those that wait for them."""

    holding: tuple[Request, ...] = ()
    waiting: tuple[Request, ...] = ()

    def __add__(self, other: Claims) -> Claims:
        return Claims(self.holding + other.holding, self.waiting + other.waiting)

    @property
    def all(self) -> tuple[Request, ...]:
        return self.holding + self.waiting

    def held(self, fitting: Callable[[Request], Collection[str]]) -> frozenset[str]:
        """Resources, "cpus" or "gpus", of which nothing else may take any: what a waiting claim needs must
        become free on one machine, or one GPU. `fitting` gives the machines that are large enough."""
        there = (claim for claim in self.waiting if fitting(claim))
        return frozenset("gpus" if claim.gpus else "cpus" for claim in there)


@dataclass(frozen=True)
class Capacity:
    """The processors and GPUs of all machines of a cluster together."""

    cpus: float
    gpus: float = 0.0

    def room(self, request: Request, running: Collection[Request], first: Sequence[Request] = ()) -> int:
        """How many more processes may be started with a `request`, beside those that are `running` and those
        that go `first`. It may be too many: a share of a GPU never spans two."""
        cpus, gpus = self._left(request.cpus, running, first)
        by_gpu = (gpus + TINY) / request.gpus if request.gpus else math.inf
        return math.floor(min((cpus + TINY) / request.cpus, by_gpu))

    def _left(
        self, cpus: float, running: Collection[Request], first: Sequence[Request]
    ) -> tuple[float, float]:
        """The processors and GPUs that are left. However many processes go first, `cpus` are left beside the
        largest of them, if there are that many: the others can take turns."""
        claims = [claim.cpus for claim in first]
        claimed = min(sum(claims), max(self.cpus - cpus, *claims, 0.0))
        return (
            self.cpus - claimed - sum(request.cpus for request in running),
            self.gpus - sum(request.gpus for request in (*first, *running)),
        )
