"""The table at the end of a sweep: mean ± std over seeds, from the ledger on disk.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import asdict, dataclass

from orchestrator.outline import Entry
from orchestrator.standing import Standing


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
    stopped: int  # by a scheduler: in no mean


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


def tabulate(standing: Standing) -> Table:
    """The sweep's table as far as it is done."""
    outline = standing.outline
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in outline.entries:
        labels = entry.labels
        row = ", ".join(labels[axis] for axis in outline.row_axes) or outline.name
        column = labels[outline.column_axis] if outline.column_axis else outline.metric
        groups.setdefault((row, column), []).append(entry)
    cells = {place: summarised(*place, entries, standing) for place, entries in groups.items()}
    rows, columns = (tuple(dict.fromkeys(place[i] for place in groups)) for i in (0, 1))
    axes = (outline.row_axes, outline.column_axis)
    return Table(outline.name, outline.question, outline.metric, *axes, rows, columns, cells)


def summarised(row: str, column: str, entries: list[Entry], standing: Standing) -> Cell:
    """What has become of the trials of one cell."""
    records = [standing.results[entry.key] for entry in entries if entry.key in standing.results]
    values = [record["metrics"][standing.outline.metric] for record in records]
    failed = sum(entry.key in standing.failures for entry in entries)
    stopped = sum(entry.key in standing.stopped for entry in entries)
    mean = statistics.fmean(values) if values else None
    std = statistics.stdev(values) if len(values) > 1 else None
    return Cell(row, column, mean, std, len(values), len(entries), failed, stopped)


def text(table: Table, row: str, column: str) -> str:
    """`97.84 ± 0.31`; a share is shown in percent; a cell that lacks seeds says `(2 of 3)`, and `(1 of 3, 2
    stopped)` if a scheduler ended some."""
    cell = table.cells.get((row, column))
    return "" if cell is None else shown(cell, table.metric, table.seeds)


def shown(cell: Cell, metric: str, seeds: int | None) -> str:
    """A cell in words; `seeds` is how many trials all cells have, which goes without saying."""
    stopped = [f"{cell.stopped} stopped"] if cell.stopped else []
    if cell.mean is None:
        return ", ".join([*([f"{cell.failed} failed"] if cell.failed else []), *stopped]) or "-"
    scale = 100 if metric.endswith("acc") else 1
    spread = "" if cell.std is None else f" ± {cell.std * scale:.2f}"
    if cell.seeds == seeds:
        return f"{cell.mean * scale:.2f}{spread}"
    count = str(cell.seeds) if cell.seeds == cell.trials else f"{cell.seeds} of {cell.trials}"
    return f"{cell.mean * scale:.2f}{spread} ({', '.join([count, *stopped])})"


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
    """One line per cell, full precision: row, column, mean, std, seeds, trials, failed, stopped."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Cell.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cell) for cell in table.cells.values())
    return out.getvalue()


def as_json(table: Table) -> str:
    told = {name: getattr(table, name) for name in ("name", "question", "metric", "row_axes", "column_axis")}
    return json.dumps({**told, "cells": [asdict(cell) for cell in table.cells.values()]}, indent=1) + "\n"


def _md_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
