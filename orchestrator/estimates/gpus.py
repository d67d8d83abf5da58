"""Which GPUs are awaited, and what may run until they are free. Pure.

A worker keeps its share of a GPU from trial to trial, since a new process takes seconds to start. It has to
let go where something else waits for its card. Until the last worker that is in the way has ended its trial,
the others on the card may do what is over by then: backfilling (Lifka, "The ANL/IBM SP scheduling system",
1995).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.estimates.capacity import TINY

WORKER_SECONDS = 10.0  # that a worker takes to start, about: a process, torch, CUDA
CLEARLY = (
    2.0  # a trial that is so many times longer is worth another worker, so workers change with the logarithm
)


@dataclass(frozen=True)
class Tenant:
    """A worker with its share of a card; `until` is when what it does is expected to end."""

    card: str
    share: float
    until: float


class Cards:
    """The GPUs of a cluster, the workers on them, and what else must find a place there."""

    def __init__(self, count: int, tenants: Iterable[Tenant], now: float) -> None:
        self.now = now
        self.awaited: dict[
            str, float
        ] = {}  # card whose workers are in the way -> when enough of them have ended
        self._tenants: dict[str, list[Tenant]] = {}
        for tenant in sorted(tenants, key=lambda one: one.until):
            self._tenants.setdefault(tenant.card, []).append(tenant)
        self._free = {card: 1.0 - sum(t.share for t in workers) for card, workers in self._tenants.items()}
        taken = sum(max(1, math.ceil(1.0 - free - TINY)) for free in self._free.values())
        self._free |= {f"without workers {i}": 1.0 for i in range(count - taken)}

    def place(self, share: float) -> bool:
        """Something takes a share of a card: whether one has that free."""
        fitting = [card for card, free in self._free.items() if free + TINY >= share]
        if fitting:
            self._free[min(fitting, key=self._free.__getitem__)] -= share
        return bool(fitting)

    def wait(self, share: float) -> float:
        """Something waits for a share: a card is awaited where that is free soonest, once a worker or more
        have ended. When that is; infinity, and none is awaited, where nobody knows."""
        found = [(self._soonest(card, share), -self._free[card], card) for card in self._tenants]
        soonest, _, card = min(found, default=(math.inf, 0.0, ""))
        if soonest < math.inf:
            self.awaited[card] = soonest
            self._free[card] -= share
        return soonest

    def _soonest(self, card: str, share: float) -> float:
        """When workers on a card have ended that leave so much of it."""
        if card in self.awaited:
            return math.inf
        free = self._free[card]
        for tenant in self._tenants[card]:
            free += tenant.share
            if free + TINY >= share:
                return max(self.now, tenant.until)
        return math.inf


def outranks(longer: float, seconds: float) -> bool:
    """Whether a trial of `longer` seconds is worth the end of a worker that would do one of `seconds`."""
    return longer > CLEARLY * seconds + WORKER_SECONDS
