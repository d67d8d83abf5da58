"""The difference of two columns: for each row, paired by seed, and over all rows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from orchestrator.report.reference import known
from orchestrator.report.statistics import sign_flip_p, smallest_p, t_interval
from orchestrator.report.table import Cell, Table
from trainers.errors import InputError
from trainers.probe_view import Unit


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Second minus first over pairs: mean, 95 % interval by Student's t, p by flipping signs. The pairs are
    trials of one seed; if `row` is None, they are the means of each row. In the unit of `metric`."""

    row: str | None
    metric: str
    unit: Unit
    pairs: int
    mean: float | None = None
    interval: tuple[float, float] | None = None  # None with fewer than two pairs
    p: float | None = None

    @property
    def smallest_p(self) -> float:
        """The smallest p that this number of pairs can give."""
        return smallest_p(self.pairs)


@dataclass(frozen=True)
class Comparison:
    """Two columns, row by row, and over all rows if there are several of the same unit."""

    first: str
    second: str
    rows: tuple[Difference, ...]
    overall: Difference | None


def compare(table: Table, first: str, second: str) -> Comparison:
    """Compare two columns by their labels. Raises InputError if one is missing, or if both are the same."""
    for column in (first, second):
        if column not in table.columns:
            raise InputError(f"compare: no column {column!r}; {known('column', column, table.columns)}")
    if first == second:
        raise InputError(f"compare: {first!r} is on both sides; write two different columns")
    rows = []
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in (first, second)]
        if cells[0] is not None and cells[1] is not None and cells[0].unit == cells[1].unit:
            rows.append(_of_cells(row, cells[0], cells[1]))
    return Comparison(first, second, tuple(rows), _over(rows))


def pair(text: str, table: Table) -> tuple[str, str]:
    """The two columns that `A,B` names; a label may itself contain commas. Raises InputError."""
    parts = text.split(",")
    for i in range(1, len(parts)):
        first, second = ",".join(parts[:i]).strip(), ",".join(parts[i:]).strip()
        if first in table.columns and second in table.columns:
            return first, second
    if len(parts) == 1:
        raise InputError(f"--compare: {text!r} is one column; write two, as in --compare em,ops")
    unknown = next((p.strip() for p in parts if p.strip() not in table.columns), text)
    raise InputError(f"--compare: no column {unknown!r}; {known('column', unknown, table.columns)}")


def difference(row: str | None, metric: str, unit: Unit, differences: list[float]) -> Difference:
    """The mean, interval and p of paired differences."""
    return Difference(
        row=row,
        metric=metric,
        unit=unit,
        pairs=len(differences),
        mean=statistics.fmean(differences) if differences else None,
        interval=t_interval(differences) if len(differences) > 1 else None,
        p=sign_flip_p(differences) if differences else None,
    )


def _of_cells(row: str, first: Cell, second: Cell) -> Difference:
    shared = [seed for seed in first.values if seed in second.values]
    differences = [second.values[seed] - first.values[seed] for seed in shared]
    return difference(row, first.metric, first.unit, differences)


def _over(rows: list[Difference]) -> Difference | None:
    """All rows together, if they have the same metric; each row counts once, however many seeds it has."""
    means = [row.mean for row in rows if row.mean is not None]
    if len(rows) < 2 or len({row.metric for row in rows}) > 1:
        return None
    return difference(None, rows[0].metric, rows[0].unit, means)
