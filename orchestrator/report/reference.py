"""Published figures that a table is set beside: `reference/<name>.json` next to the sweep, or above it.

    {"source": "...", "units": "percent",
     "tables": {"table2": {"metric": "test/clean_acc",
                           "cells": [{"row": "LeNet-5", "column": "clean", "value": 70.27}]}}}

A cell may have a `std`, null by default, and a number of `runs`, 1 by default. `metric`, which may be left
out, is the only one that the table is set beside.
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

LEVELS = 3  # of folders above the sweep's own in which `reference/` is looked for
UNITS = {"percent": 100.0, "share": 1.0, "number": 1.0}  # parts of the metric's own unit
Place = tuple[str, str]  # labels of row and column


@dataclass(frozen=True)
class Published:
    """A published figure in the metric's own unit, a share for an accuracy, and how many runs it is the mean
    of."""

    value: float
    std: float | None = None
    runs: int = 1


@dataclass(frozen=True)
class Reference:
    """One published table. `metric` is what it is of, or None: whatever the rows and columns say."""

    name: str  # ops_paper/table2
    source: str
    metric: str | None
    cells: Mapping[Place, Published]

    def beside(self, row: str, column: str, metric: str, *, only_column: bool = False) -> Published | None:
        """The figure that goes with a cell, or None. Where the sweep has an `only_column`, and the reference
        has one too, columns need not have the same label."""
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
    """The table `name`, `ops_paper/table2`, of a file in a folder `reference` beside the sweep file, or up to
    three levels above. Raises InputError if there is none."""
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
        told = FIGURES.read_file(file)
        problem = "there is no such file"
    except (OSError, DamagedError) as error:
        told, problem = None, str(error)
    if told is None:
        raise InputError(
            f"{file}: not a file of published figures ({problem}); it holds "
            f"source, units (one of {', '.join(UNITS)}), and tables with cells of row, column and value"
        )
    tables, units = told["tables"], UNITS[told["units"]]
    if table in tables:
        cells = {(c["row"], c["column"]): _published(c, units) for c in tables[table]["cells"]}
        name = f"{file.stem}/{table}"
        return Reference(name, told["source"], tables[table].get("metric"), cells)
    what = f"no table {table!r}" if table else f"{file.stem!r} names no table; write {file.stem}/TABLE"
    raise InputError(f"report.reference: {what}; {known('table', table, tables)} in {file}")


def known(what: str, word: str, there: Iterable[str]) -> str:
    """`did you mean 'table2'; there is a table 'table1', 'table2'`"""
    names = list(there)
    near = difflib.get_close_matches(word, names, 1)
    hint = f"did you mean {near[0]!r}; " if near else ""
    return hint + (
        f"there is {what} " + ", ".join(repr(name) for name in names) if names else f"no {what} is"
    )


def _published(cell: FigureRecord, units: float) -> Published:
    std = cell.get("std")
    return Published(cell["value"] / units, None if std is None else std / units, cell.get("runs", 1))
