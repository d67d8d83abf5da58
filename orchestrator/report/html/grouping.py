"""The trials of a sweep grouped by cell, and the types of figure panels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.report.html.figure import SERIES, VARIABLES, colour, dash
from orchestrator.report.html.numbers import number
from orchestrator.report.html.records import MappedImage, SweepRecord, TrialRecord

Trial = TrialRecord
Sweep = SweepRecord
Curve = tuple[list[float], list[float]]  # x and y
Picker = Callable[[Trial], Curve | None]


@dataclass(frozen=True)
class Panel:
    """One small figure: a title, an `<svg>` element and a note below it; or images with maps and filters,
    which the page lays out. `shows` says what the maps show."""

    title: str
    svg: str = ""
    note: str = ""
    images: Sequence[MappedImage] = ()
    filters: Sequence[str] = ()
    shows: str = ""


@dataclass(frozen=True)
class Key:
    """One entry of a legend. `index` is the number of the series, from 0, which gives its colour, dashes and
    marker; `form` is the shape of the swatch."""

    label: str
    index: int
    form: str = "line"

    @property
    def colour(self) -> str:
        """As a variable of the style sheet."""
        return f"var({VARIABLES[colour(self.index)]})"

    @property
    def dashes(self) -> str:
        """As SVG writes them; empty for a solid line."""
        pattern = dash(self.index)
        return "" if isinstance(pattern, str) else " ".join(f"{length:g}" for length in pattern[1])


@dataclass(frozen=True)
class Group:
    """Panels that belong together, on one scale, with one legend. `says` is the text above them."""

    title: str
    says: str
    panels: Sequence[Panel]
    legend: Sequence[Key] = ()
    rows: Sequence[Sequence[str]] = ()  # a table below the panels, its header first
    labels: int = 1  # how many columns of the table hold labels


@dataclass(frozen=True)
class Band:
    """The curves of a cell's trials: mean, lowest and highest value at each x."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def rows(sweep: Sweep) -> list[str]:
    """Labels of the rows, in the order of the sweep."""
    return list(dict.fromkeys(trial["row"] for trial in sweep["trials"]))


def columns(sweep: Sweep) -> list[str]:
    """Labels of the columns; a single empty label for a sweep without columns."""
    return list(dict.fromkeys(trial["column"] for trial in sweep["trials"]))


def transposed_if_wide(sweep: Sweep) -> Sweep:
    """The sweep for panels that have a line for each column: with its rows as columns if it has more columns
    than lines have colours, and no more rows."""
    if not len(rows(sweep)) <= SERIES < len(columns(sweep)):
        return sweep
    trials: list[Trial] = [{**t, "row": t["column"], "column": t["row"]} for t in sweep["trials"]]
    down, across = [sweep["column_axis"] or ""], " / ".join(sweep["row_axes"])
    return {**sweep, "trials": trials, "row_axes": down, "column_axis": across}


def done(sweep: Sweep, row: str, column: str) -> list[Trial]:
    """The finished trials of one cell."""
    cell = [trial for trial in sweep["trials"] if (trial["row"], trial["column"]) == (row, column)]
    return [trial for trial in cell if trial["state"] == "done"]


def title_of(row: str, row_axes: Sequence[str]) -> str:
    """A row's label as the title of a figure; a number gets the name of its axis: `width 4`."""
    if len(row_axes) != 1 or number(row) is None:
        return row
    return f"{row_axes[0].rpartition('.')[2]} {row}"


def cells(sweep: Sweep) -> Iterator[tuple[str, str, list[Trial]]]:
    """Every cell that has a finished trial."""
    for row in rows(sweep):
        for column in columns(sweep):
            if trials := done(sweep, row, column):
                yield row, column, trials


def seed_of(trial: Trial, sweep: Sweep) -> str:
    """`seed 0`: the labels that distinguish a trial from the others of its cell."""
    shown = {*sweep["row_axes"], sweep["column_axis"]}
    rest = {axis: label for axis, label in trial["labels"].items() if axis not in shown}
    return ", ".join(f"{axis} {label}" for axis, label in rest.items()) or "the only one"


def band(trials: Sequence[Trial], pick: Picker) -> Band | None:
    """Mean and range of these trials' curves, at each x that all of them have; None without curves."""
    found = [dict(zip(*curve, strict=True)) for trial in trials if (curve := pick(trial))]
    x = sorted(set[float]().union(*found).intersection(*found)) if found else []
    if not x:
        return None
    at = [[curve[place] for curve in found] for place in x]
    return Band(x, [statistics.fmean(v) for v in at], [min(v) for v in at], [max(v) for v in at])


def curve_of(x: Sequence[float | None], y: Sequence[float | None], scale: float = 1) -> Curve:
    """The points at which both x and y are known."""
    known = [(a, b * scale) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [a for a, _ in known], [b for _, b in known]


def legend(labels: Sequence[str], form: str = "line") -> list[Key]:
    """An entry for each label that is not empty."""
    return [Key(label, i, form) for i, label in enumerate(labels) if label]
