"""Callbacks for the events of a running sweep, for the display, the tracker and tests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.records import Result, Stopped
from poisons import DataSpec
from trainers.families import Metrics


class Observer:
    """Override the methods of interest. They are called on the driver, from one thread, in the order of
    events. A method must neither raise nor block."""

    def sweep_started(self, plan: Plan) -> None:
        """Ray has started, and the sweep begins."""

    def data_started(self, spec: DataSpec) -> None: ...

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None: ...

    def data_built(self, spec: DataSpec) -> None: ...

    def data_retried(self, spec: DataSpec, why: str) -> None:
        """A build has failed and will be retried."""

    def data_failed(self, spec: DataSpec, error: str) -> None: ...

    def trial_started(self, task: Task) -> None: ...

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None: ...

    def trial_retried(self, task: Task, why: str) -> None:
        """A trial has failed and will be retried."""

    def trial_done(self, task: Task, record: Result) -> None:
        """A trial has its result. If another sweep ran it, it never started here."""

    def trial_stopped(self, task: Task, record: Stopped) -> None:
        """A scheduler stopped the trial early."""

    def trial_failed(self, task: Task, error: str) -> None: ...

    def store_silent(self, error: str) -> None:
        """The store is full or does not answer, and work that needs it waits. Called once per outage."""

    def sweep_ended(self) -> None:
        """The last event, regardless of how the sweep ended, even if it never started."""


class Observers(Observer):
    """Passes every event on to several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def pass_on(self, event: str, *args: object) -> None:
        for observer in self.observers:
            getattr(observer, event)(*args)


def _passing_on(event: str) -> Callable[..., None]:
    return lambda self, *args: self.pass_on(event, *args)


for _event in [name for name in vars(Observer) if not name.startswith("_")]:
    setattr(Observers, _event, _passing_on(_event))


class Awaited(Observers):
    """An observer that is still being made while the sweep begins: it gets the events that it missed once it
    is there."""

    def __init__(self, made: Future[Observer | None], *, patience: float) -> None:
        """At the end of the sweep, `made` is waited for up to `patience` seconds; it may give None."""
        super().__init__()
        self.made, self.patience = made, patience
        self._missed: list[tuple[str, tuple[object, ...]]] = []

    def pass_on(self, event: str, *args: object) -> None:
        self._missed.append((event, args))
        if event == "sweep_ended" and len(self._missed) > 1:  # else nothing has happened
            wait([self.made], self.patience)
        if self.made.done():
            self.observers = tuple(filter(None, [self.made.result()]))
            for name, given in self._missed:
                super().pass_on(name, *given)
            self._missed.clear()
