"""Who wants to know what happens in a sweep overrides these: the display, the tracker, a test."""

from __future__ import annotations

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

    def sweep_started(self, plan: Plan) -> None:
        for observer in self.observers:
            observer.sweep_started(plan)

    def data_started(self, spec: DataSpec) -> None:
        for observer in self.observers:
            observer.data_started(spec)

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None:
        for observer in self.observers:
            observer.data_progress(spec, row)

    def data_built(self, spec: DataSpec) -> None:
        for observer in self.observers:
            observer.data_built(spec)

    def data_retried(self, spec: DataSpec, why: str) -> None:
        for observer in self.observers:
            observer.data_retried(spec, why)

    def data_failed(self, spec: DataSpec, error: str) -> None:
        for observer in self.observers:
            observer.data_failed(spec, error)

    def trial_started(self, task: Task) -> None:
        for observer in self.observers:
            observer.trial_started(task)

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None:
        for observer in self.observers:
            observer.trial_progress(task, rows)

    def trial_retried(self, task: Task, why: str) -> None:
        for observer in self.observers:
            observer.trial_retried(task, why)

    def trial_done(self, task: Task, record: Record) -> None:
        for observer in self.observers:
            observer.trial_done(task, record)

    def trial_stopped(self, task: Task, record: Record) -> None:
        for observer in self.observers:
            observer.trial_stopped(task, record)

    def trial_failed(self, task: Task, error: str) -> None:
        for observer in self.observers:
            observer.trial_failed(task, error)

    def store_silent(self, error: str) -> None:
        for observer in self.observers:
            observer.store_silent(error)

    def sweep_ended(self) -> None:
        for observer in self.observers:
            observer.sweep_ended()
