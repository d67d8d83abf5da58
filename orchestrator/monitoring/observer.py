"""Who wants to know what happens in a sweep overrides these: the display, the tracker, a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.records import Record
from poisons import DataSpec
from trainers.loop import Metrics


class Observer:
    """Is told on the driver, in one thread, in the order of events. A method must not raise and must not
    wait."""

    def sweep_started(self, plan: Plan) -> None:
        """Ray is there; what comes now is the sweep."""

    def data_started(self, spec: DataSpec) -> None: ...

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None: ...

    def data_built(self, spec: DataSpec) -> None: ...

    def data_retried(self, spec: DataSpec, why: str) -> None:
        """Building it has failed and will be tried again."""

    def data_failed(self, spec: DataSpec, error: str) -> None: ...

    def trial_started(self, task: Task) -> None: ...

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None: ...

    def trial_retried(self, task: Task, why: str) -> None:
        """It has failed and will be tried again."""

    def trial_done(self, task: Task, record: Record) -> None:
        """It has its result; another sweep may have run it, so it need not have started here."""

    def trial_stopped(self, task: Task, record: Record) -> None:
        """A scheduler ended it early."""

    def trial_failed(self, task: Task, error: str) -> None: ...

    def store_silent(self, error: str) -> None:
        """The store is full, or does not answer: what it is needed for waits. Told once, until it has been
        well for a while."""

    def sweep_ended(self) -> None:
        """The last event, however the sweep ended, and even if it never started."""


class Observers(Observer):
    """Passes every event on to several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers


def _pass_on(event: str) -> Callable[..., None]:
    def pass_on(self: Observers, *args: object) -> None:
        for observer in self.observers:
            getattr(observer, event)(*args)

    return pass_on


for _event in [name for name in vars(Observer) if not name.startswith("_")]:
    setattr(Observers, _event, _pass_on(_event))
