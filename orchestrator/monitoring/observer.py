"""Callbacks for the events of a running sweep, for the display, the tracker and tests."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.records import Record
from poisons import DataSpec
from trainers.loop import Metrics


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

    def trial_done(self, task: Task, record: Record) -> None:
        """A trial has its result. If another sweep ran it, it never started here."""

    def trial_stopped(self, task: Task, record: Record) -> None:
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
