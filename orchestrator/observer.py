"""Who wants to know what happens in a sweep overrides these: the display, the tracker, a test."""

from __future__ import annotations

from typing import Any

from orchestrator.plan import Plan, Task
from orchestrator.results import Record
from poisons import DataSpec
from trainers.loop import Metrics


class Observer:
    """Is told on the driver, in one thread, in the order of events. A method must not raise and must not
    wait."""

    def sweep_started(self, plan: Plan) -> None: ...

    def data_started(self, spec: DataSpec) -> None: ...

    def data_progress(self, spec: DataSpec, row: dict[str, Any]) -> None: ...

    def data_built(self, spec: DataSpec) -> None: ...

    def data_failed(self, spec: DataSpec, error: str) -> None: ...

    def trial_started(self, task: Task) -> None: ...

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None: ...

    def trial_retried(self, task: Task) -> None: ...

    def trial_done(self, task: Task, record: Record) -> None: ...

    def trial_failed(self, task: Task, error: str) -> None: ...

    def sweep_ended(self) -> None: ...


class Audience(Observer):
    """Passes every event on to several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers


def _pass_on(name: str) -> Any:
    def event(self: Audience, *what: Any) -> None:
        for observer in self.observers:
            getattr(observer, name)(*what)

    return event


for _name in [name for name in vars(Observer) if not name.startswith("_")]:
    setattr(Audience, _name, _pass_on(_name))
