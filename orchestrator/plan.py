"""What a sweep will do: the data sets to build and the trials to run, given what is on disk. Starts
nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

from orchestrator.cells import drawn, place
from orchestrator.depots.results import Ledger
from orchestrator.depots.summaries import finished
from orchestrator.expansion import Point, expand
from orchestrator.outline import Entry, Outline
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
    left: Literal["failed", "stopped"] | None = None  # how an earlier run ended it, for good

    @property
    def missing(self) -> bool:
        """Whether it will be run."""
        return not self.done and self.left is None

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
    version: str = ""  # of the sweep's text, see outline.py

    @cached_property
    def missing(self) -> tuple[Task, ...]:
        """Trials that will be run."""
        return tuple(task for task in self.tasks if task.missing)

    @cached_property
    def most(self) -> int:
        """How many trials may run: all that are missing, or as many as a guided search tries at most."""
        cells = Counter(place(task.point.labels) for task in self.missing)
        guided = self.sweep.run.search == "optuna"
        return sum(n for _, n in cells.most_common(self.sweep.run.num_samples if guided else None))

    @cached_property
    def failed(self) -> tuple[Task, ...]:
        """Trials that failed in an earlier run by their own fault, and would again: they are left alone."""
        return tuple(task for task in self.tasks if task.left == "failed")

    @cached_property
    def stopped(self) -> tuple[Task, ...]:
        """Trials that the sweep's scheduler ended early in an earlier run."""
        return tuple(task for task in self.tasks if task.left == "stopped")

    @property
    def done(self) -> int:
        """How many trials are done already, whichever sweep ran them."""
        return sum(task.done for task in self.tasks)

    @cached_property
    def outline(self) -> Outline:
        """What a report and a status need of it."""
        sweep, axes = self.sweep, self.sweep.report_axes()
        entries = tuple(Entry(task.key, dict(task.point.labels)) for task in self.tasks)
        stops = sweep.run.scheduler != "none"
        best = None if sweep.run.search == "grid" else sweep.run.mode
        return Outline(sweep.name, sweep.question, sweep.report.metric, *axes, stops, entries, best)

    @property
    def names(self) -> list[str]:
        """Names of all data sets that the sweep counts on."""
        read = {name for task in self.tasks for name in task.needs}
        return sorted(read | {spec.name for spec in self.data})

    @cached_property
    def to_build(self) -> tuple[DataSpec, ...]:
        return tuple(spec for spec in self.data if spec.name not in self.ready)


def make_plan(sweep: SweepSpec, store: Store, where: str, *, version: str = "") -> Plan:
    """The plan of `sweep`; `where` names its file in errors. Reads the sources' fingerprints and the
    store's records."""
    tasks = _tasks(sweep, where, Ledger(store.where))
    data_sets = _with_parents(spec for task in tasks if task.missing for spec in task.trial.needs)
    ready = store.having(data_sets)
    needed = _needed(data_sets, ready, tasks)
    return Plan(sweep, tasks, tuple(spec for spec in data_sets if spec.name in needed), ready, version)


def _tasks(sweep: SweepSpec, where: str, ledger: Ledger) -> tuple[Task, ...]:
    """Every trial of the sweep, and what has become of it. InputError if two points are the same trial."""
    pin = cache(lambda source: source.pinned())
    points: dict[str, Point] = {}
    expanded = expand(sweep, where)
    _check_report(sweep, expanded, where)
    for point in drawn(sweep, expanded):
        trial = point.trial.model_copy(update={"data": point.trial.data.pinned(pin)})
        key = trial.key
        if key in points:
            raise InputError(
                f"{where}: two points are the same trial: ({points[key].name}) and ({point.name})"
            )
        points[key] = replace(point, trial=trial)
    done = finished(ledger, points.keys())
    left = _left(ledger, points.keys() - done, stops=sweep.run.scheduler != "none")
    return tuple(
        Task(key, point, key in done, tuple(spec.name for spec in point.trial.needs), left.get(key))
        for key, point in points.items()
    )


def _left(ledger: Ledger, keys: set[str], *, stops: bool) -> dict[str, Literal["failed", "stopped"]]:
    """How an earlier run ended those of these trials, none of them done, that it ended for good."""
    if not keys:
        return {}
    failures = {key: ledger.failure(key) for key in ledger.failed() & keys}
    left: dict[str, Literal["failed", "stopped"]] = {
        key: "failed" for key, record in failures.items() if record and record.get("kind") == "trial"
    }
    for key in ledger.ended() & keys if stops else ():
        left[key] = "stopped"
    return left


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
    needed = {name for task in tasks if task.missing for name in task.needs}
    for spec in reversed(data_sets):
        if spec.name in needed and spec.name not in ready:
            needed.update(parent.name for parent in spec.parents)
    return needed
