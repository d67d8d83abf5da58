"""What a sweep will do: the data sets to build and the trials to run, given what is on disk. Starts
nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.expansion import Point, expand
from orchestrator.results import Ledger
from orchestrator.spec import SweepSpec, TrialSpec
from poisons import DataSpec, Store
from poisons.sources.base import Source


@dataclass(frozen=True)
class Task:
    """One trial of a sweep, with its key."""

    key: str
    point: Point
    done: bool

    @property
    def trial(self) -> TrialSpec:
        return self.point.trial


@dataclass(frozen=True)
class Plan:
    """A sweep against a store: every trial of the sweep in its order, and the data sets that missing trials
    need."""

    sweep: SweepSpec
    tasks: tuple[Task, ...]
    data: tuple[DataSpec, ...]  # of the missing trials, parents first
    ready: frozenset[str]  # names of those that are in the store

    @cached_property
    def missing(self) -> tuple[Task, ...]:
        return tuple(task for task in self.tasks if not task.done)

    @cached_property
    def to_build(self) -> tuple[DataSpec, ...]:
        return tuple(spec for spec in self.data if spec.name not in self.ready)


def make_plan(sweep: SweepSpec, store: Store, where: str) -> Plan:
    """The plan of `sweep`; `where` names its file in errors. Reads the sources' fingerprints and the
    store's records."""
    ledger = Ledger(store.root)
    pinned: dict[Source, Source] = {}
    tasks = []
    for point in expand(sweep, where):
        source = point.trial.data.source
        if source not in pinned:
            pinned[source] = source.pinned()
        data = point.trial.data.model_copy(update={"source": pinned[source]})
        trial = point.trial.model_copy(update={"data": data})
        tasks.append(Task(trial.key, replace(point, trial=trial), ledger.result(trial.key) is not None))
    data_sets = _with_parents(spec for task in tasks if not task.done for spec in task.trial.needs)
    ready = frozenset(spec.name for spec in data_sets if store.has(spec))
    needed = _needed(data_sets, ready, tasks)
    return Plan(sweep, tuple(tasks), tuple(spec for spec in data_sets if spec.name in needed), ready)


def _with_parents(specs: Iterable[DataSpec]) -> list[DataSpec]:
    """Each data set once, after those it is made from."""
    found: dict[str, DataSpec] = {}

    def visit(spec: DataSpec) -> None:
        if spec.name not in found:
            for parent in spec.parents:
                visit(parent)
            found[spec.name] = spec

    for spec in specs:
        visit(spec)
    return list(found.values())


def _needed(data_sets: list[DataSpec], ready: frozenset[str], tasks: list[Task]) -> set[str]:
    """Names of what trials read, and of the parents of what is not built: ancestors of built data sets need
    not come back."""
    needed = {spec.name for task in tasks if not task.done for spec in task.trial.needs}
    for spec in reversed(data_sets):
        if spec.name in needed and spec.name not in ready:
            needed.update(parent.name for parent in spec.parents)
    return needed
