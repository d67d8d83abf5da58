"""What a sweep will do: the data sets to build and the trials to run, given what is on disk. Starts
nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property

from orchestrator.expansion import Point, expand
from orchestrator.results import Ledger
from orchestrator.spec import SweepSpec, TrialSpec, is_seed
from poisons import DataSpec, Store
from trainers import InputError
from trainers.spec import nearest


@dataclass(frozen=True)
class Task:
    """One trial of a sweep, with its key and the names of the data sets that it reads."""

    key: str
    point: Point
    done: bool
    needs: tuple[str, ...]

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

    @property
    def done(self) -> int:
        """How many trials are done already, whichever sweep ran them."""
        return len(self.tasks) - len(self.missing)

    @property
    def names(self) -> list[str]:
        """Names of all data sets that the sweep counts on."""
        read = {name for task in self.tasks for name in task.needs}
        return sorted(read | {spec.name for spec in self.data})

    @cached_property
    def to_build(self) -> tuple[DataSpec, ...]:
        return tuple(spec for spec in self.data if spec.name not in self.ready)


def make_plan(sweep: SweepSpec, store: Store, where: str) -> Plan:
    """The plan of `sweep`; `where` names its file in errors. Reads the sources' fingerprints and the
    store's records."""
    ledger = Ledger(store.root)
    pin = cache(lambda source: source.pinned())
    tasks: dict[str, Task] = {}
    points = expand(sweep, where)
    _check_report(sweep, points, where)
    for point in points:
        trial = point.trial.model_copy(update={"data": point.trial.data.pinned(pin)})
        key, needs = trial.key, tuple(spec.name for spec in trial.needs)
        if key in tasks:
            first = tasks[key].point.name
            raise InputError(f"{where}: two points are the same trial: ({first}) and ({point.name})")
        tasks[key] = Task(key, replace(point, trial=trial), ledger.result(key) is not None, needs)
    data_sets = _with_parents(spec for task in tasks.values() if not task.done for spec in task.trial.needs)
    ready = frozenset(spec.name for spec in data_sets if store.has(spec))
    needed = _needed(data_sets, ready, tasks.values())
    return Plan(sweep, tuple(tasks.values()), tuple(spec for spec in data_sets if spec.name in needed), ready)


def _check_report(sweep: SweepSpec, points: tuple[Point, ...], where: str) -> None:
    """A report that could not be made is told before the work, not after it."""
    rows, columns = sweep.report_axes()
    for axis in sweep.grid:
        if axis not in (*rows, columns) and not is_seed(axis):
            raise InputError(
                f"{where}: report: the axis {axis!r} is named neither as row nor as column, "
                "and different settings are not averaged: add it to report.rows"
            )
    for metrics in {point.trial.metrics for point in points}:
        if sweep.report.metric not in metrics:
            raise InputError(
                f"{where}: report.metric: no metric {sweep.report.metric!r}"
                f"{nearest(sweep.report.metric, metrics)}; "
                "each attack in evaluation.attacks brings its own"
            )


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


def _needed(data_sets: list[DataSpec], ready: frozenset[str], tasks: Iterable[Task]) -> set[str]:
    """Names of what trials read, and of the parents of what is not built: ancestors of built data sets need
    not come back."""
    needed = {name for task in tasks if not task.done for name in task.needs}
    for spec in reversed(data_sets):
        if spec.name in needed and spec.name not in ready:
            needed.update(parent.name for parent in spec.parents)
    return needed
