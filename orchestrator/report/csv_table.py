"""Tables as comma-separated values, one line per cell, in full precision and in the metric's own unit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from orchestrator.report.csv_text import csv_text
from orchestrator.report.sheet import Sheet
from orchestrator.report.table import Cell
from orchestrator.report.warning import SheetWarning
from orchestrator.report.wording import absence

COLUMNS = (
    "sweep",
    "row",
    "column",
    "metric",
    "mean",
    "std",
    "seeds",
    "trials",
    "failed",
    "stopped",
    "absent",  # why some trials give no value, in words
    "low",  # low and high: the 95 % bootstrap interval of the mean
    "high",
    "published",
    "published_std",
    "published_runs",
    "difference",
    "within",
    "values",  # by seed, as JSON
    "warnings",  # of the cell and its trials
    "sweep_warnings",  # of the whole sweep, the same in all its lines
)


def comma_separated(*sheets: Sheet) -> str:
    """One line per cell, with `COLUMNS` as the header; an unknown value is empty. A cell of a probe's table
    has the row and column of the sweep's table; the sweep's own metric is not repeated. A summary is left
    out: it can be formed from the cells."""
    rows = ([line.get(name) for name in COLUMNS] for sheet in sheets for line in _lines(sheet))
    return csv_text(COLUMNS, rows)


def joined(warnings: Iterable[SheetWarning]) -> str:
    """Warnings in one cell: `failed: machine: no space left; doubt: gradients may be masked`."""
    return "; ".join(dict.fromkeys(f"{one.kind}: {one.text}" for one in warnings))


def _lines(sheet: Sheet) -> Iterator[dict[str, object]]:
    whole = joined(one for one in sheet.warnings if one.subject is None)
    for cell in _cells(sheet):
        own = joined(one for one in sheet.warnings if one.concerns(cell))
        yield {**_values(cell), "sweep": sheet.table.name, "warnings": own, "sweep_warnings": whole}


def _cells(sheet: Sheet) -> Iterator[Cell]:
    for table in sheet.tables:
        own = table.metric if table.probe is not None else None
        yield from (cell for cell in table.of_trials.values() if cell.metric != own)


def _values(cell: Cell) -> dict[str, object]:
    low, high = cell.interval or (None, None)
    known = {name: getattr(cell, name) for name in COLUMNS if name in vars(cell)}
    figure = cell.published
    return known | {
        "absent": absence(cell),
        "low": low,
        "high": high,
        "published": figure and figure.value,
        "published_std": figure and figure.std,
        "published_runs": figure and figure.runs,
        "difference": cell.difference,
        "within": cell.within,
        "values": json.dumps(dict(cell.values)),
    }
