"""Which GPUs are awaited, and what may run until they are free. Pure.

A worker keeps its share of a GPU from trial to trial, since a new process takes seconds to start. It
gives up its share if something else waits for its card. Until the last worker that has to end has finished
its trial, the others on the card may run trials that end by then: backfilling (Lifka, "The ANL/IBM SP
scheduling system", 1995).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.estimates.capacity import TINY

WORKER_SECONDS = 10.0  # approximate start of a worker: a process, torch, CUDA
# A trial must be this many times longer to replace a worker, so the number of replacements grows with the
# logarithm of the durations.
CLEARLY = 2.0


@dataclass(frozen=True)
class Tenant:
    """A worker with its share of a card; `until` is when its trial is expected to end."""

    card: str
    share: float
    until: float


class Cards:
    """The GPUs of a cluster, the workers on them, and other claims on them."""

    def __init__(self, count: int, tenants: Iterable[Tenant], now: float) -> None:
        self.now = now
        self.awaited: dict[str, float] = {}  # card -> when enough of its workers have ended
        self._tenants: dict[str, list[Tenant]] = {}
        for tenant in sorted(tenants, key=lambda one: one.until):
            self._tenants.setdefault(tenant.card, []).append(tenant)
        self._free = {card: 1.0 - sum(t.share for t in workers) for card, workers in self._tenants.items()}
        taken = sum(max(1, math.ceil(1.0 - free - TINY)) for free in self._free.values())
        self._free |= {f"without workers {i}": 1.0 for i in range(count - taken)}

    def place(self, share: float) -> bool:
        """Reserve a share of a card. False if no card has that much free."""
        fitting = [card for card, free in self._free.items() if free + TINY >= share]
        if fitting:
            self._free[min(fitting, key=self._free.__getitem__)] -= share
        return bool(fitting)

    def wait(self, share: float) -> float:
        """Wait for a share on the card where it is free soonest, once one or more workers have ended. Returns
        when that is; infinity, without waiting for a card, if it is unknown."""
        found = [(self._soonest(card, share), -self._free[card], card) for card in self._tenants]
        soonest, _, card = min(found, default=(math.inf, 0.0, ""))
        if soonest < math.inf:
            self.awaited[card] = soonest
            self._free[card] -= share
        return soonest

    def _soonest(self, card: str, share: float) -> float:
        """When enough workers on a card have ended to free this share."""
        if card in self.awaited:
            return math.inf
        free = self._free[card]
        for tenant in self._tenants[card]:
            free += tenant.share
            if free + TINY >= share:
                return max(self.now, tenant.until)
        return math.inf


def outranks(longer: float, seconds: float) -> bool:
    """Whether a trial of `longer` seconds justifies ending a worker whose next trial takes `seconds`."""
    return longer > CLEARLY * seconds + WORKER_SECONDS
