"""The table at the end of a sweep: mean ± std over seeds, from the ledger on disk."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass

from orchestrator.plan import Plan, Task
from orchestrator.results import Ledger


@dataclass(frozen=True)
class Cell:
    """One cell: what its finished trials say, and how many there should be. `std` is the sample's, with n -
    1."""

    row: str
    column: str
    mean: float | None
    std: float | None
    seeds: int
    trials: int
    failed: int


@dataclass(frozen=True)
class Table:
    """Cells by row and column, in the order of the grid."""

    name: str
    question: str
    metric: str
    row_axes: tuple[str, ...]
    column_axis: str | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]

    @property
    def seeds(self) -> int | None:
        """How many trials every cell has, if all have as many."""
        counts = {cell.trials for cell in self.cells.values()}
        return counts.pop() if len(counts) == 1 else None


def tabulate(plan: Plan, ledger: Ledger) -> Table:
    """The sweep's table as far as it is done. Raises InputError if the metric is unknown or an axis would
    be averaged away."""
    sweep = plan.sweep
    row_axes, column_axis = sweep.report_axes()
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in plan.tasks:
        labels = task.point.labels
        row = ", ".join(labels[axis] for axis in row_axes) or sweep.name
        groups.setdefault((row, labels[column_axis] if column_axis else sweep.report.metric), []).append(task)
    cells = {place: _cell(*place, tasks, ledger, sweep.report.metric) for place, tasks in groups.items()}
    rows, columns = (tuple(dict.fromkeys(place[i] for place in groups)) for i in (0, 1))
    return Table(sweep.name, sweep.question, sweep.report.metric, row_axes, column_axis, rows, columns, cells)


def _cell(row: str, column: str, tasks: list[Task], ledger: Ledger, metric: str) -> Cell:
    values, failed = [], 0
    for task in tasks:
        record = ledger.result(task.key)
        if record is None:
            failed += ledger.failure(task.key) is not None
        else:
            values.append(record["metrics"][metric])
    mean = statistics.fmean(values) if values else None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Cell(row, column, mean, std, len(values), len(tasks), failed)


def text(table: Table, row: str, column: str) -> str:
    """`97.84 ± 0.31`; a share is shown in percent; a cell that lacks seeds says `(2 of 3)`."""
    cell = table.cells.get((row, column))
    if cell is None:
        return ""
    if cell.mean is None:
        return f"{cell.failed} failed" if cell.failed else "-"
    scale = 100 if table.metric.endswith("acc") else 1
    spread = "" if cell.std is None else f" ± {cell.std * scale:.2f}"
    if cell.seeds == table.seeds:
        return f"{cell.mean * scale:.2f}{spread}"
    count = str(cell.seeds) if cell.seeds == cell.trials else f"{cell.seeds} of {cell.trials}"
    return f"{cell.mean * scale:.2f}{spread} ({count})"


def caption(table: Table) -> str:
    """What the numbers are."""
    unit = " in %" if table.metric.endswith("acc") else ""
    over = "(number of seeds)" if table.seeds is None else f"over {table.seeds} seeds"
    return f"{table.metric}{unit}, " + (f"mean ± std {over}" if table.seeds != 1 else "one seed")


def markdown(table: Table) -> str:
    head = [" / ".join(table.row_axes) or "sweep", *table.columns]
    lines = [_md_row(head), _md_row(["---", *("---:" for _ in table.columns)])]
    for row in table.rows:
        cells = [text(table, row, column) for column in table.columns]
        lines.append(_md_row([row, *cells]))
    return f"**{table.name}**: {table.question}\n\n" + "\n".join(lines) + f"\n\n{caption(table)}\n"


def comma_separated(table: Table) -> str:
    """One line per cell, full precision: row, column, mean, std, seeds, trials, failed."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Cell.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cell) for cell in table.cells.values())
    return out.getvalue()


def as_json(table: Table) -> str:
    told = {name: getattr(table, name) for name in ("name", "question", "metric", "row_axes", "column_axis")}
    return json.dumps({**told, "cells": [asdict(cell) for cell in table.cells.values()]}, indent=1) + "\n"


def doubts(plan: Plan, ledger: Ledger) -> list[tuple[Task, str]]:
    """Finished trials with what their evaluation, or their checkpoints, gave as a warning."""
    records = ((task, ledger.result(task.key)) for task in plan.tasks)
    return [(task, text) for task, record in records if record for text in record.get("warnings", ())]


def _md_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
