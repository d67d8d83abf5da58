"""What a driver knows while a sweep runs: what is built, what can start, what has ended. Knows no ray."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from orchestrator.observer import Observer
from orchestrator.plan import Plan, Task
from orchestrator.results import Ledger
from poisons import DataSpec, Store


@dataclass
class Progress:
    """The state of one run of a plan. All calls come from one thread; the observer hears of every change."""

    plan: Plan
    store: Store
    observer: Observer
    done: int = 0
    failed: list[str] = field(default_factory=list)
    live: set[str] = field(default_factory=set)  # keys of trials given out and not ended
    most: float = math.inf  # how many may be live, so that builders find processors

    def __post_init__(self) -> None:
        self.tasks = {task.key: task for task in self.plan.tasks}
        self.ledger = Ledger(self.store.root)
        self.waiting = list(self.plan.missing)
        self.data = {spec.name: spec for spec in self.plan.data}
        self.parents = {name: {parent.name for parent in spec.parents} for name, spec in self.data.items()}
        self.unbuilt = {name: spec for name, spec in self.data.items() if name not in self.plan.ready}
        self.built = set(self.plan.ready)
        self.attempts: dict[str, int] = {}  # failures in the ledger when a trial was last started

    def buildable(self) -> list[DataSpec]:
        """Data sets whose parents are there, in the order of the plan."""
        return [spec for name, spec in self.unbuilt.items() if self.parents[name] <= self.built]

    def data_built(self, spec: DataSpec) -> None:
        self.built.add(spec.name)
        self.observer.data_built(spec)

    def data_failed(self, spec: DataSpec, error: str) -> None:
        """A data set cannot be built, nor what is made from it; trials that need any of these have failed."""
        self.observer.data_failed(spec, error)
        name = spec.name
        for child in [child for child in self.unbuilt if name in self.parents[child]]:
            if child in self.unbuilt:  # it may have gone already, with a parent of its own that went
                self.data_failed(self.unbuilt.pop(child), error)
        for task in list(self.waiting):
            if name in task.needs:
                self.waiting.remove(task)
                self._fail(task, error)

    def ready(self) -> Task | None:
        """The first waiting trial whose data sets are there, unless as many run as may."""
        if len(self.live) >= min(self.most, self.plan.sweep.run.max_concurrent or math.inf):
            return None
        return next((task for task in self.waiting if self.built.issuperset(task.needs)), None)

    def give(self, task: Task) -> None:
        """A trial is given out to be run."""
        self.waiting.remove(task)
        self.live.add(task.key)

    def started(self, key: str) -> None:
        failure = self.ledger.failure(key)
        self.attempts[key] = failure["attempts"] if failure else 0
        self.observer.trial_started(self.tasks[key])

    def ended(self, key: str) -> None:
        """A trial ended well; the ledger knows with what. One that was stopped has no result."""
        self.live.discard(key)
        if (record := self.ledger.result(key)) is not None:
            self.done += 1
            self.observer.trial_done(self.tasks[key], record)

    def gave_up(self, key: str) -> None:
        """A trial was retried as often as it may be."""
        self.live.discard(key)
        failure = self.ledger.failure(key)
        if failure is not None and failure["attempts"] > self.attempts.get(key, 0):
            self._fail(self.tasks[key], failure["error"], write=False)
        else:
            self._fail(self.tasks[key], "its worker process died; was there memory enough?")

    def _fail(self, task: Task, error: str, *, write: bool = True) -> None:
        if write:
            self.ledger.fail(task.key, {"error": error, "traceback": None, "needs": list(task.needs)})
        self.failed.append(task.key)
        self.observer.trial_failed(task, error)
