"""The plan of a sweep: the data sets to build and the trials to run, given what is in the store. Starts
nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import yaml

from orchestrator.planning.cells import drawn, place, quota
from orchestrator.planning.expansion import Point, expand, resolved_report
from orchestrator.planning.extents import Extents
from orchestrator.planning.feasibility import check_batches
from orchestrator.planning.preflight import Measure, Preflight
from orchestrator.planning.probes import PlannedProbe, SweepProbes, metrics_found, shown_probe
from orchestrator.planning.snapshot import Entry, Snapshot
from orchestrator.planning.spec import SweepSpec, is_seed
from orchestrator.planning.trial_budget import Bound, Quota
from orchestrator.storage.ledger import Ledger, ProbeKeys
from orchestrator.storage.stores import storage_of
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec, Store
from poisons.sources.base import Extent, Source, Split
from trainers import InputError, TrainSpec
from trainers.spec import nearest, plain
from trainers.starts.trial import TrialStart

# why a trial that is not done will not be run: an earlier run ended it, or the search is over
Left = Literal["failed", "stopped", "untried"]


@dataclass(frozen=True)
class Task:
    """One trial of a sweep, with its key, the names of the data sets that it reads, and its probes. It is
    done when it has a result and every probe has run."""

    key: str
    point: Point
    done: bool
    needs: tuple[str, ...]
    left: Left | None = None
    probes: tuple[PlannedProbe, ...] = ()
    missing_probes: tuple[PlannedProbe, ...] = ()  # those of them without a finding
    trained: bool = False  # its result is in the ledger
    kept: bool = False  # its weights are in the store

    @property
    def missing(self) -> bool:
        """Whether it will be run."""
        return not self.done and self.left is None

    @property
    def trial(self) -> TrialSpec:
        return self.point.trial

    @cached_property
    def probe_keys(self) -> ProbeKeys:
        return {planned.name: planned.key for planned in self.probes}

    @property
    def trains(self) -> bool:
        """Whether it will be trained, perhaps again for its probes: kept weights suffice for probes that
        do not observe epochs."""
        return self.missing and not (
            self.kept and not any(planned.probe.watches for planned in self.missing_probes)
        )

    @property
    def reads(self) -> tuple[DataSpec, ...]:
        """The data sets behind `needs`: the trial's own, and the sets of the probes that it lacks."""
        return (
            *self.trial.needs,
            *(spec for planned in self.missing_probes for spec in planned.sets.values()),
        )


@dataclass(frozen=True)
class Plan:
    """A sweep against a store: every trial of the sweep in its order, and the data sets that missing
    trials need."""

    sweep: SweepSpec
    tasks: tuple[Task, ...]
    data: tuple[DataSpec, ...]  # of the missing trials, parents first
    ready: frozenset[str]  # names of those that are in the store
    version: str = ""  # of the sweep's text, see snapshot.py
    quota: Quota | None = None  # of a search that tries only some cells
    bound: Bound | None = None  # and its limit on the trials that run

    @cached_property
    def missing(self) -> tuple[Task, ...]:
        """Trials that will be run; for a guided search, that may be."""
        return tuple(task for task in self.tasks if task.missing)

    @property
    def most(self) -> int:
        """How many trials may run: all that are missing, or as many as a guided search may still try."""
        return len(self.missing) if self.bound is None else self.bound.most

    @cached_property
    def sure(self) -> frozenset[str]:
        """The keys of the trials that run whatever a search decides."""
        return frozenset(task.key for task in self.missing) if self.bound is None else self.bound.sure

    @property
    def work(self) -> str:
        """`4 data sets to build, 12 trials to run, 3 to probe from kept weights`"""
        guess = "at most " if len(self.sure) < self.most < len(self.missing) else ""
        return f"{guess}{len(self.to_build)} data sets to build, {self.trials_left(' trials')}"

    def trials_left(self, what: str = "") -> str:
        """`12 to run, 2 to train again for a probe, 3 to probe from kept weights`"""
        finished = [task for task in self.missing if task.trained and task.key in self.sure]
        again = sum(task.trains for task in finished)
        parts = [f"{self.most - len(finished)}{what} to run"]
        parts += [f"{again} to train again for a probe"] if again else []
        parts += [f"{len(finished) - again} to probe from kept weights"] if len(finished) > again else []
        return ", ".join(parts)

    @cached_property
    def failed(self) -> tuple[Task, ...]:
        """Trials that failed with a `trial` fault in an earlier run. They are not retried."""
        return tuple(task for task in self.tasks if task.left == "failed")

    @cached_property
    def stopped(self) -> tuple[Task, ...]:
        """Trials that the sweep's scheduler pruned in an earlier run."""
        return tuple(task for task in self.tasks if task.left == "stopped")

    @property
    def done(self) -> int:
        """How many trials are done already, whichever sweep ran them."""
        return sum(task.done for task in self.tasks)

    @property
    def finished(self) -> int:
        """How many trials have a result, whichever sweep ran them; some may lack probes."""
        return sum(task.trained for task in self.tasks)

    @cached_property
    def snapshot(self) -> Snapshot:
        """What `status` and `report` need to know about the sweep."""
        sweep, report = self.sweep, plain(self.sweep.report)
        row_axes, column_axis = sweep.report_axes()
        return Snapshot(
            name=sweep.name,
            question=sweep.question,
            metric=sweep.report.metric,
            row_axes=row_axes,
            column_axis=column_axis,
            stops=sweep.run.scheduler != "none",
            entries=tuple(Entry(t.key, dict(t.point.labels), dict(t.probe_keys)) for t in self.tasks),
            best=None if sweep.run.search == "grid" else sweep.run.mode,
            report={name: report[name] for name in report if name not in ("rows", "columns", "metric")},
            quota=self.quota,
            probes={spec.name: shown_probe(spec) for spec in sweep.probes},
        )

    @property
    def names(self) -> list[str]:
        """The names of all data sets that the sweep depends on."""
        read = {name for task in self.tasks for name in task.needs}
        return sorted(read | {spec.name for spec in self.data})

    @property
    def starts(self) -> list[str]:
        """The keys of the trials whose weights missing ones start from."""
        found = (task.trial.train.start for task in self.missing)
        return sorted({start.of for start in found if isinstance(start, TrialStart)})

    @cached_property
    def to_build(self) -> tuple[DataSpec, ...]:
        return tuple(spec for spec in self.data if spec.name not in self.ready)


def make_plan(
    sweep: SweepSpec, store: Store, where: str, *, version: str = "", retry: Collection[str] = ()
) -> Plan:
    """The plan of `sweep`; `where` names its file in errors. Trials whose keys are in `retry` count as
    missing even if they failed or were stopped. Reads the fingerprints of the sources and the records of
    the store."""
    ledger, measure = Ledger(storage_of(store)), cache(_extent)
    tasks = _tasks(sweep, where, ledger, measure, frozenset(retry))
    sweep = sweep.model_copy(update={"report": resolved_report(sweep, where)})
    bounds, bound = quota(sweep, {task.key: task.point for task in tasks}), None
    if bounds is not None:
        ended = {task.key for task in tasks if not task.missing}
        bound = bounds.bound(ended, bounds.begun(ledger.storage))
        tasks = _within(tasks, bound)
    missing = {task.point.name: task.trial for task in tasks if task.missing}
    check_batches(missing, Extents(store), where)
    data_sets = _with_parents(_read_by(task for task in tasks if task.missing))
    ready = store.having(data_sets)
    needed = _needed(data_sets, ready, tasks)
    data = tuple(spec for spec in data_sets if spec.name in needed)
    _check(Preflight(where, measure, ledger), tasks, [spec for spec in data if spec.name not in ready])
    return Plan(sweep, tasks, data, ready, version, bounds, bound)


def _check(preflight: Preflight, tasks: tuple[Task, ...], to_build: list[DataSpec]) -> None:
    """InputError for the first trial or data set that is certain to fail. Of trials that differ only in
    their seeds, one is checked."""
    for spec in to_build:
        preflight.data_set(spec)
    checked = set()
    for task in tasks:
        alike = (
            place(task.point.labels),
            tuple(planned.name for planned in task.missing_probes),
            task.trains,
        )
        if task.missing and alike not in checked:
            checked.add(alike)
            name = f"the trial ({task.point.name})"
            preflight.trial(task.trial, task.missing_probes, name, trains=task.trains)


def _within(tasks: tuple[Task, ...], bound: Bound) -> tuple[Task, ...]:
    """The tasks, where those that a search can no longer reach are not missing."""
    if bound.most > len(bound.sure):
        return tasks
    over = [task.missing and task.key not in bound.sure for task in tasks]
    return tuple(
        replace(task, left="untried") if out else task for task, out in zip(tasks, over, strict=True)
    )


def _tasks(
    sweep: SweepSpec, where: str, ledger: Ledger, measure: Measure, retry: frozenset[str]
) -> tuple[Task, ...]:
    """Every trial of the sweep, and its state. InputError if two points are the same trial."""
    pin = cache(lambda source: source.pinned())
    probes = SweepProbes(sweep.probes, where, pin, lambda source: measure(source, "train"))
    points: dict[str, Point] = {}
    expanded = expand(sweep, where)
    _check_report(sweep, expanded, where)
    for point in drawn(sweep, expanded):
        trial = point.trial.model_copy(update={"data": point.trial.data.pinned(pin)})
        if trial.train.start is not None:
            trial = trial.model_copy(update={"train": _started(trial.train, where, point.name)})
        key = trial.key
        if key in points:
            raise InputError(f"{where}: {_same(points[key], point)}")
        points[key] = replace(point, trial=trial)
    tasks = {
        key: Task(key, point, done=False, needs=(), probes=probes.of(point.trial.data))
        for key, point in points.items()
    }
    return _with_state(tasks, ledger, retry, stops=sweep.run.scheduler != "none")


def _same(one: Point, other: Point) -> str:
    """What is wrong with two points that are the same trial, and how to leave the second one out."""
    axes = {axis: label for axis, label in other.labels.items() if not is_seed(axis)}
    rule = yaml.safe_dump([axes], default_flow_style=True, sort_keys=False, width=math.inf).strip()
    advice = f"write `skip: {rule}`" if len(axes) > 1 else "leave one of them out"
    return f"two points are the same trial: ({one.name}) and ({other.name}); {advice}"


def _started(spec: TrainSpec, where: str, name: str) -> TrainSpec:
    """The recipe, pinned."""
    try:
        return spec.pinned()
    except InputError as error:
        raise InputError(f"{where}: the trial ({name}): {error}") from None


def _with_state(
    tasks: Mapping[str, Task], ledger: Ledger, retry: frozenset[str], *, stops: bool
) -> tuple[Task, ...]:
    """The tasks, with what the ledger knows about them."""
    trained = set(ledger.summaries(tasks))
    seen = ledger.finding_summaries({key: task.probe_keys for key, task in tasks.items() if task.probes})
    missing_probes = {
        key: tuple(planned for planned in task.probes if planned.name not in seen[key])
        for key, task in tasks.items()
        if task.probes
    }
    done = {key for key in trained if not missing_probes.get(key)}
    left = _left(ledger, tasks.keys() - done - retry, stops=stops)
    kept = ledger.kept() if trained - done else set()
    found, needs = [], dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]]()
    for key, task in tasks.items():
        task = replace(
            task, left=left.get(key), missing_probes=missing_probes.get(key, ()), kept=key in kept & trained
        )
        alike = (_without_seed(task.point.labels), tuple(planned.name for planned in task.missing_probes))
        if alike not in needs:
            needs[alike] = tuple(dict.fromkeys(spec.name for spec in task.reads))
        found.append(replace(task, done=key in done, needs=needs[alike], trained=key in trained))
    return tuple(found)


def _without_seed(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The labels that determine which data sets a trial reads: all but the seed of its training."""
    return tuple(label for axis, label in labels.items() if axis != "seed")


def _extent(source: Source, split: Split) -> Extent | None:
    """The extent of a split of a source; None if it is not known before the download."""
    try:
        return source.extent(split)
    except (InputError, OSError):
        return None


def _left(ledger: Ledger, keys: set[str], *, stops: bool) -> dict[str, Left]:
    """Why these trials, none of which is done, are not run again: how an earlier run ended them."""
    if not keys:
        return {}
    failures = ledger.failures(ledger.failed() & keys)
    left: dict[str, Left] = {
        key: "failed" for key, record in failures.items() if record.get("kind") == "trial"
    }
    for key in ledger.ended() & keys if stops else ():
        left[key] = "stopped"
    return left


def _check_report(sweep: SweepSpec, points: tuple[Point, ...], where: str) -> None:
    """InputError for a report that cannot be made: before the trainings, not after them."""
    rows, columns = sweep.report_axes()
    for axis in sweep.grid:
        if axis not in (*rows, columns) and not is_seed(axis):
            raise InputError(
                f"{where}: report: the axis {axis!r} is named neither as row nor as column, "
                "and different settings are not averaged: add it to report.rows"
            )
    found = tuple(metric for spec in sweep.probes for metric in metrics_found(spec))
    named = [(metric, "metrics" if sweep.report.metrics else "metric") for metric in sweep.report.measured]
    if sweep.run.search != "grid":  # the search ranks cells by the metric of the report
        named.append((sweep.report.metric, "metric"))
    for metrics in {(*point.trial.metrics, *found) for point in points}:
        for metric, field in named:
            if metric not in metrics:
                raise InputError(
                    f"{where}: report.{field}: no metric {metric!r}"
                    f"{nearest(metric, metrics)}; each attack in evaluation.attacks brings its own, "
                    "and each of probes, as <name>/<metric>"
                )


def _read_by(tasks: Iterable[Task]) -> Iterator[DataSpec]:
    """The data sets that tasks read. Each is examined once, since there may be thousands of tasks."""
    seen: set[str] = set()
    for task in tasks:
        if not seen.issuperset(task.needs):
            seen.update(task.needs)
            yield from task.reads


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
    """Names of the data sets that trials read, and of the ancestors of those that are not built. Ancestors
    of built data sets are not needed."""
    needed = {name for task in tasks if task.missing for name in task.needs}
    for spec in reversed(data_sets):
        if spec.name in needed and spec.name not in ready:
            needed.update(parent.name for parent in spec.parents)
    return needed
