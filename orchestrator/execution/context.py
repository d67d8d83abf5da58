"""What the parts of a running sweep share in its driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.leases import Leases
from poisons import Store


@dataclass(frozen=True)
class SweepContext:
    """A sweep that runs: its plan, where its data sets and results are, who is notified, and the leases of
    its driver. `now` is a clock in seconds."""

    plan: Plan
    store: Store
    observer: Observer
    leases: Leases
    now: Callable[[], float] = time.monotonic

    @property
    def run(self) -> RunSpec:
        return self.plan.sweep.run
