"""Tables as comma-separated values, one line per cell, in full precision and in the metric's own unit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from orchestrator.report.table import Cell, Table
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
    "absent",  # why trials give no value, in words
    "low",  # and high: the 95 % bootstrap interval of the mean
    "high",
    "published",
    "published_std",
    "published_runs",
    "difference",
    "within",
    "values",  # by seed, as JSON
)


def comma_separated(*tables: Table) -> str:
    """One line per cell under the names of `COLUMNS`; what is not known is empty. Cells of a probe's table
    have the row and the column that they have in the sweep's, where its own metric is already."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        own = table.metric if table.probe is not None else None
        writer.writerows(_lines(table.name, (c for c in table.cells.values() if c.metric != own)))
    return out.getvalue()


def _lines(sweep: str, cells: Iterable[Cell]) -> Iterable[dict[str, object]]:
    for cell in cells:
        low, high = cell.interval or (None, None)
        known = {name: getattr(cell, name) for name in COLUMNS if name in vars(cell)}
        figure = cell.published
        yield known | {
            "sweep": sweep,
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
