"""A sweep's report as one object: its status, its tables, comparisons, claims and warnings. Every output
format renders a `Sheet`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.report.claims import Verdict, verdicts
from orchestrator.report.comparison import Comparison, Difference, compare, pair
from orchestrator.report.lines import counts
from orchestrator.report.probe_tables import probe_tables
from orchestrator.report.reference import Reference, find
from orchestrator.report.table import Cell, Table, scale, tabulate
from orchestrator.report.warning import SheetWarning, sheet_warnings
from orchestrator.report.wording import caption, source
from trainers.errors import InputError


@dataclass(frozen=True)
class Sheet:
    """One sweep's report. `file` is the sweep file; `probes` are the tables of its probes; `notes` say which
    parts could not be made, and why; `warnings` are all warnings, the notes included, and every format
    renders them."""

    file: str
    status: SweepStatus
    table: Table
    comparisons: tuple[Comparison, ...] = ()
    claims: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[SheetWarning, ...] = ()
    probes: tuple[Table, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """The table of the sweep, followed by those of its probes."""
        return (self.table, *self.probes)

    @property
    def reference(self) -> Reference | None:
        return self.table.reference

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data for JSON. Numbers are in the metric's own unit (multiply by `scale`
        for display); None where a value is unknown."""
        return {
            **table_as_json(self.table),
            "file": self.file,
            "counts": dict(counts(self.status)),
            "comparisons": [_comparison(one) for one in self.comparisons],
            "claims": [_verdict(one) for one in self.claims],
            "notes": list(self.notes),
            "warnings": [asdict(one) for one in self.warnings],
            "probes": [table_as_json(table) for table in self.probes],
        }


def make_sheet(
    status: SweepStatus, file: Path, requested: Sequence[str] = (), *, strict: bool = True
) -> Sheet:
    """The report of the sweep file `file`, with the `requested` comparisons (such as `em,ops`) besides the
    sweep's own.

    Raises InputError for unknown columns, and for published figures that cannot be found. Without `strict`,
    as at the end of a sweep, missing figures become a note.
    """
    reference, notes = _reference(status, file, strict=strict)
    table = tabulate(status, reference)
    wanted = [pair(text, table) for text in requested]
    for first, second in status.snapshot.report.get("compare") or ():
        if absent := [column for column in (first, second) if column not in table.columns]:
            notes.append(f"compare: {first}, {second}: the sweep has no column {' and no '.join(absent)}")
        else:
            wanted.append((first, second))
    comparisons = tuple(compare(table, *columns) for columns in dict.fromkeys(wanted))
    claims, probes = verdicts(status, table), probe_tables(status)
    warnings = sheet_warnings(status, table, notes)
    return Sheet(str(file), status, table, comparisons, claims, tuple(notes), warnings, probes)


def as_json(sheets: Sequence[Sheet]) -> str:
    """Reports as JSON: an object for one sweep, a list of objects for several."""
    reports = [sheet.as_json() for sheet in sheets]
    return json.dumps(reports[0] if len(reports) == 1 else reports, indent=1, allow_nan=False) + "\n"


def _reference(status: SweepStatus, file: Path, *, strict: bool) -> tuple[Reference | None, list[str]]:
    name = status.snapshot.report.get("reference")
    if not name:
        return None, []
    try:
        return find(name, file), []
    except InputError as error:
        if strict:
            raise
        return None, [str(error)]


def table_as_json(table: Table) -> dict[str, Any]:
    """A table as plain data for JSON, with its cells in the order of the grid."""
    names = ("name", "question", "metric", "row_axes", "column_axis", "rows", "columns", "probe", "summary")
    record: dict[str, Any] = {name: getattr(table, name) for name in (*names, "colours")}
    reference = None
    if table.reference is not None:
        reference = {name: getattr(table.reference, name) for name in ("name", "source", "metric")}
    record |= {"metrics": dict(table.metrics), "caption": caption(table), "source": source(table)}
    cells = [_cell(cell) | {"row": row, "column": col} for (row, col), cell in table.cells.items()]
    return record | {"reference": reference, "cells": cells}


def _cell(cell: Cell) -> dict[str, Any]:
    computed = ("scale", "difference", "within", "interval")
    return asdict(cell) | {name: getattr(cell, name) for name in computed}


def _comparison(one: Comparison) -> dict[str, Any]:
    return asdict(one) | {
        "rows": [_difference(row) for row in one.rows],
        "overall": None if one.overall is None else _difference(one.overall),
    }


def _difference(one: Difference) -> dict[str, Any]:
    return asdict(one) | {"smallest_p": one.smallest_p, "scale": scale(one.unit)}


def _verdict(one: Verdict) -> dict[str, Any]:
    points = [asdict(point) | {"scale": scale(point.unit)} for point in one.points]
    return asdict(one) | {"points": points, "complete": one.complete}
