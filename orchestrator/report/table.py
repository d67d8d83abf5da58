"""The table of a sweep: the finished trials of each cell, what is missing and why, and the published figure.
Every number is as it was measured: a fraction for an accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import METRIC, SUMMARY, Entry, Snapshot
from orchestrator.report.colours import Ends, shade
from orchestrator.report.reference import Published, Reference
from orchestrator.report.statistics import bootstrap_interval
from trainers.probe_view import PERCENT, Unit

VALUE = "value"  # the name of the only column if rows are metrics


@dataclass(frozen=True)
class Absent:
    """A trial without a value for its cell. `kind` is whose fault a failure was, `error` its first line;
    `probe` is the name of the probe that it lacks."""

    seed: str
    key: str
    why: Literal["failed", "stopped", "not run", "lacks probe", "no value"]
    kind: str | None = None
    error: str | None = None
    probe: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: the results of its finished trials, and how many there should be. `row` and `column` are its
    place in the table of the sweep. `std` is the sample standard deviation, with n - 1. `values` are keyed by
    the label of the seed; `labels` are those of the other axes."""

    row: str
    column: str
    mean: float | None
    std: float | None
    seeds: int
    trials: int
    failed: int
    stopped: int  # by a scheduler; not in the mean
    metric: str
    unit: Unit
    labels: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    absent: tuple[Absent, ...] = ()
    published: Published | None = None
    keys: tuple[str, ...] = ()  # keys of all its trials

    @property
    def scale(self) -> int:
        """The factor for display."""
        return scale(self.unit)

    @property
    def difference(self) -> float | None:
        """Ours minus the published figure."""
        known = self.mean is not None and self.published is not None
        return self.mean - self.published.value if known else None  # type: ignore[operator, union-attr]

    @property
    def within(self) -> bool | None:
        """Whether ours and the published figure differ by at most two standard deviations (ours combined with
        the published one, if there is one); None with fewer than two seeds."""
        if self.difference is None or self.std is None:
            return None
        spread = float(self.std**2 + ((self.published and self.published.std) or 0) ** 2) ** 0.5
        return abs(self.difference) <= 2 * spread

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """A 95 % bootstrap interval of the mean; None with fewer than two seeds."""
        return bootstrap_interval(list(self.values.values())) if self.seeds > 1 else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells by row and column, in the order of the grid. `probe` is the name of the probe whose metrics the
    table shows, if any."""

    name: str
    question: str
    metric: str
    row_axes: tuple[str, ...]
    column_axis: str | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    metrics: Mapping[str, str] = field(default_factory=dict)  # by label, in a report with several
    reference: Reference | None = None
    probe: str | None = None
    summary: tuple[str, ...] = ()  # the columns over which the last two are formed, if there are any
    colours: Ends | None = None  # the means at the ends of the colours of a table with a summary

    @property
    def of_trials(self) -> dict[tuple[str, str], Cell]:
        """The cells without those of the summary."""
        return {place: c for place, c in self.cells.items() if not (self.summary and c.column in SUMMARY)}

    def best(self, column: str) -> frozenset[str]:
        """The rows with the highest mean of a column, among those of the same metric, in a table with a
        summary."""
        means = {
            row: (cell.metric, cell.mean)
            for row in self.rows
            if (cell := self.cells.get((row, column))) is not None and cell.mean is not None
        }
        top = {metric: mean for metric, mean in sorted(means.values())}  # the last one stays
        return frozenset(row for row, (metric, mean) in means.items() if self.summary and mean == top[metric])

    def shade(self, row: str, column: str) -> float | None:
        """Where the mean of a cell lies between the ends of the colours; None if it has no colour."""
        cell = self.cells.get((row, column))
        return None if cell is None else shade(cell.mean, self.colours)

    @property
    def seeds(self) -> int | None:
        """How many trials each cell has, if all cells have the same number."""
        counts = {cell.trials for cell in self.cells.values()}
        return counts.pop() if len(counts) == 1 else None

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of its metrics."""
        return tuple(self.metrics.values()) or (self.metric,)

    @property
    def units(self) -> dict[str, Unit]:
        """The units of its metrics."""
        return {cell.metric: cell.unit for cell in self.cells.values()}


def scale(unit: Unit) -> int:
    """The factor for display: 100 for a share, which is shown in percent; 1 for any other unit."""
    return 100 if unit == PERCENT else 1


def axes_of(snapshot: Snapshot) -> tuple[tuple[str, ...], str | None]:
    """The row axes and the column axis. Several metrics are an axis too: where the sweep puts it; by default
    the columns, or the rows if the columns are taken."""
    rows, column = snapshot.row_axes, snapshot.column_axis
    if not snapshot.report.get("metrics") or METRIC in (*rows, column):
        return rows, column
    return (rows, METRIC) if column is None else ((*rows, METRIC), column)


def tabulate(status: SweepStatus, reference: Reference | None = None) -> Table:
    """The sweep's table of the trials finished so far, with published figures if there are any."""
    snapshot = status.snapshot
    row_axes, column_axis = axes_of(snapshot)
    metrics = snapshot.report.get("metrics") or {}
    groups: dict[tuple[str, str], tuple[str, list[Entry]]] = {}
    for entry in snapshot.entries:
        for label, metric in metrics.items() or [(snapshot.metric, snapshot.metric)]:
            place = place_of(snapshot, {**entry.labels, METRIC: label}, metric)
            groups.setdefault(place, (metric, []))[1].append(entry)
    rows, columns = (tuple(dict.fromkeys(place[i] for place in groups)) for i in (0, 1))
    cells, summary = {}, snapshot.report.get("summary") or ()
    for (row, column), (metric, entries) in groups.items():
        only = len(columns) == 1
        where = _published_row(snapshot, row, entries[0])
        found = reference.beside(where, column, metric, only_column=only) if reference else None
        cells[row, column] = summarised(row, column, entries, status, metric, found)
    for row in rows if summary else ():
        over = [cells[row, column] for column in summary if (row, column) in cells]
        if len(over) == len(summary):  # rows are compared over the same columns
            cells |= {(row, cell.column): cell for cell in summary_cells(over, column_axis)}
    return Table(
        name=snapshot.name,
        question=snapshot.question,
        metric=snapshot.metric,
        row_axes=row_axes,
        column_axis=column_axis,
        rows=rows,
        columns=(*columns, *(SUMMARY if summary else ())),
        cells=cells,
        metrics=metrics,
        reference=reference,
        summary=tuple(summary),
        colours=_ends(cells.values(), status) if summary else None,
    )


def _ends(cells: Collection[Cell], status: SweepStatus) -> Ends | None:
    """From chance, or from the lowest mean of what is no accuracy, to the highest mean; None without any, or
    if they have several units."""
    means = [cell.mean for cell in cells if cell.mean is not None]
    if not means or len({cell.unit for cell in cells}) > 1:
        return None
    classes = [
        len(record["per_class_acc"]) for record in status.results.values() if "per_class_acc" in record
    ]
    accuracies = all(cell.unit == PERCENT for cell in cells)
    return 1 / max(classes) if accuracies and classes else min(means), max(means)


def summary_cells(cells: Sequence[Cell], column_axis: str | None) -> Iterator[Cell]:
    """The summary of some cells of a row: the mean of their means, and the cell with the lowest mean. The std
    of the mean is over the seeds that all of them have. As long as a cell has no mean, neither has one."""
    means = [cell.mean for cell in cells if cell.mean is not None]
    common = [seed for seed in cells[0].values if all(seed in cell.values for cell in cells)]
    known = len(means) == len(cells) and bool(common)
    values = {seed: statistics.fmean(cell.values[seed] for cell in cells) for seed in common if known}
    absent = tuple(one for cell in cells for one in cell.absent)
    mean = replace(
        cells[0],
        mean=statistics.fmean(means) if known else None,
        std=statistics.stdev(values.values()) if len(values) > 1 else None,
        seeds=len(values),
        values=values,
        absent=absent,
        failed=sum(one.why == "failed" for one in absent),
        stopped=sum(one.why == "stopped" for one in absent),
    )
    lowest = min(cells, key=lambda cell: cell.mean or 0.0) if known else mean
    for column, cell in zip(SUMMARY, (mean, lowest), strict=True):
        labels = {**cell.labels, **({column_axis: column} if column_axis else {})}
        yield replace(cell, column=column, labels=labels, published=None, keys=())


def _published_row(snapshot: Snapshot, row: str, entry: Entry) -> str:
    """The row of a published table, which has one metric, beside which a row of the sweep's is set."""
    axes = [axis for axis in axes_of(snapshot)[0] if axis != METRIC]
    return ", ".join(entry.labels[axis] for axis in axes) if axes else row


def place_of(snapshot: Snapshot, labels: Mapping[str, str], metric: str) -> tuple[str, str]:
    """The row and the column of the sweep's table to which a trial with these labels belongs."""
    row_axes, column_axis = axes_of(snapshot)
    row = ", ".join(labels.get(axis, metric) for axis in row_axes) or snapshot.name
    return row, labels.get(column_axis, metric) if column_axis else VALUE if METRIC in row_axes else metric


def summarised(
    row: str,
    column: str,
    entries: list[Entry],
    status: SweepStatus,
    metric: str | None = None,
    published: Published | None = None,
) -> Cell:
    """The cell of these trials; `metric` is the sweep's by default."""
    snapshot = status.snapshot
    metric = metric or snapshot.metric
    shown = {*snapshot.row_axes, snapshot.column_axis}
    values, absent = {}, []
    for entry in entries:
        seed = _seed({axis: label for axis, label in entry.labels.items() if axis not in shown})
        record = status.results.get(entry.key)
        value = record["metrics"].get(metric) if record is not None else None
        if value is None:
            absent.append(_absent(seed, entry, metric, status))
        else:
            values[seed] = value
    return Cell(
        row=row,
        column=column,
        mean=statistics.fmean(values.values()) if values else None,
        std=statistics.stdev(values.values()) if len(values) > 1 else None,
        seeds=len(values),
        trials=len(entries),
        failed=sum(one.why == "failed" for one in absent),
        stopped=sum(one.why == "stopped" for one in absent),
        metric=metric,
        unit=snapshot.unit(metric),
        labels={axis: label for axis, label in entries[0].labels.items() if axis in shown},
        values=values,
        absent=tuple(absent),
        published=published,
        keys=tuple(entry.key for entry in entries),
    )


def _seed(labels: Mapping[str, str]) -> str:
    """`0`, or `seed=0, data.seed=1` if several axes are repeats."""
    if len(labels) == 1:
        return next(iter(labels.values()))
    return ", ".join(f"{axis}={label}" for axis, label in labels.items())


def _absent(seed: str, entry: Entry, metric: str, status: SweepStatus) -> Absent:
    key, probe = entry.key, metric.partition("/")[0]
    if key in status.results:
        lacks = probe in status.lacking.get(key, ())
        return Absent(seed, key, "lacks probe", probe=probe) if lacks else Absent(seed, key, "no value")
    if key in status.failures:
        record = status.failures[key]
        error = str(record.get("error", "")).strip().partition("\n")[0]
        return Absent(seed, key, "failed", record.get("kind"), error)
    if key in status.stopped:
        return Absent(seed, key, "stopped")
    return Absent(seed, key, "not run")
