"""Published figures to compare a table with: `reference/<name>.json` next to the sweep, or above it.

    {"source": "...", "units": "percent",
     "tables": {"table2": {"metric": "test/clean_acc",
                           "cells": [{"row": "LeNet-5", "column": "clean", "value": 70.27}]}}}

A cell may have a `std` (default null) and a number of `runs` (default 1). If a table names a `metric`, it is
compared with that metric only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from poisons.records import Count, NotNegative, Text, more
from trainers.errors import InputError
from trainers.stored import MB, DamagedError, JsonFile

LEVELS = 3  # how many folders above the sweep's own are searched for `reference/`
UNITS = {"percent": 100.0, "share": 1.0, "number": 1.0}  # what a figure is divided by
Place = tuple[str, str]  # labels of row and column


@dataclass(frozen=True)
class Published:
    """A published figure in the metric's own unit (a fraction for an accuracy), the mean of `runs` runs."""

    value: float
    std: float | None = None
    runs: int = 1


@dataclass(frozen=True)
class Reference:
    """One published table. `metric` is the metric that it reports; None: any metric."""

    name: str  # ops_paper/table2
    source: str
    metric: str | None
    cells: Mapping[Place, Published]

    def beside(self, row: str, column: str, metric: str, *, only_column: bool = False) -> Published | None:
        """The figure for a cell, or None. If the sweep has an `only_column`, and the reference has a single
        column too, their labels may differ."""
        if self.metric not in (None, metric):
            return None
        columns = {label for _, label in self.cells}
        if only_column and len(columns) == 1:
            column = next(iter(columns))
        return self.cells.get((row, column))


@more
class FigureRecord(TypedDict):
    """One published figure."""

    row: Text
    column: Text
    value: FiniteFloat
    std: NotRequired[NotNegative | None]
    runs: NotRequired[Count]


@more
class TableRecord(TypedDict):
    """One published table."""

    metric: NotRequired[Text | None]
    cells: list[FigureRecord]


@more
class FiguresRecord(TypedDict):
    """`reference/<name>.json`: the published figures of a paper."""

    source: Text
    units: Literal["percent", "share", "number"]
    tables: dict[Text, TableRecord]


FIGURES = JsonFile[FiguresRecord](FiguresRecord, limit=16 * MB)


def find(name: str, sweep: Path) -> Reference:
    """The table `name` (such as `ops_paper/table2`) of a file in a folder `reference` beside the sweep file,
    or up to three levels above. Raises InputError if there is none."""
    file_name, _, table = name.partition("/")
    folders = [folder / "reference" for folder in (sweep.resolve().parent, *sweep.resolve().parent.parents)]
    for folder in folders[: LEVELS + 1]:
        file = folder / f"{file_name}.json"
        if file.is_file():
            return read(file, table)
    there = [file.stem for folder in folders[: LEVELS + 1] for file in sorted(folder.glob("*.json"))]
    raise InputError(
        f"report.reference: {name!r}: no file {file_name}.json in {folders[0]} or in a reference/ up to "
        f"{LEVELS} levels above; {known('reference', file_name, there)}"
    )


def read(file: Path, table: str) -> Reference:
    """One table of a file of published figures. Raises InputError."""
    try:
        record = FIGURES.read_file(file)
        problem = "there is no such file"
    except (OSError, DamagedError) as error:
        record, problem = None, str(error)
    if record is None:
        raise InputError(
            f"{file}: not a file of published figures ({problem}); it must hold "
            f"source, units (one of {', '.join(UNITS)}), and tables whose cells have row, column and value"
        )
    tables, units = record["tables"], UNITS[record["units"]]
    if table in tables:
        cells = {(c["row"], c["column"]): _published(c, units) for c in tables[table]["cells"]}
        name = f"{file.stem}/{table}"
        return Reference(name, record["source"], tables[table].get("metric"), cells)
    what = f"no table {table!r}" if table else f"{file.stem!r} names no table; write {file.stem}/TABLE"
    raise InputError(f"report.reference: {what}; {known('table', table, tables)} in {file}")


def known(what: str, word: str, there: Iterable[str]) -> str:
    """`did you mean 'table2'; there are 'table1', 'table2'`"""
    names = list(there)
    if not names:
        return f"there is no {what}"
    near = difflib.get_close_matches(word, names, 1)
    hint = f"did you mean {near[0]!r}; " if near else ""
    verb = "is" if len(names) == 1 else "are"
    return f"{hint}there {verb} {', '.join(map(repr, names))}"


def _published(cell: FigureRecord, units: float) -> Published:
    std = cell.get("std")
    return Published(cell["value"] / units, None if std is None else std / units, cell.get("runs", 1))
