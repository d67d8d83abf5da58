"""Dot plots: a dot for each finished trial, on one scale, with the mean and the published figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from orchestrator.report.html.figure import (
    BOTTOM,
    FAINT,
    INK,
    PAPER,
    TOP,
    colour,
    dot,
    marker,
    panel,
    svg,
    tip,
)
from orchestrator.report.html.grouping import Group, Key, Panel, title_of
from orchestrator.report.html.numbers import shown, spread, suffix
from orchestrator.report.html.records import CellRecord, TableRecord
from orchestrator.report.html.table import absent
from orchestrator.report.table import scale
from trainers.probe_view import PERCENT, Unit

LEVEL = 22  # distance between the lines of two cells, pixels
BOX = 0.56  # thickness of a box, as a fraction of a level
BOXED = 5  # the number of values from which on quartiles are drawn
LETTER, LONGEST = 7, 16  # of cell names: pixels per letter, most letters

Cell = CellRecord


@dataclass(frozen=True)
class Level:
    """One line of dots: its name, its cell, and the index of its colour."""

    name: str
    cell: Cell
    index: int


def strips(report: TableRecord) -> Group | None:
    """A panel for each row, with a line of dots for each column. With a single column: one panel, with a line
    for each row. None if no trial is finished."""
    cells = [cell for cell in report["cells"] if cell["values"]]
    if not cells:
        return None
    several = len(report["columns"]) > 1
    named = report["rows"] if several else [report["columns"][0]]
    panels = []
    longest = max(min(len(name), LONGEST) for name in report["columns" if several else "rows"])
    for metric in dict.fromkeys(cell["metric"] for cell in cells):
        limits = _limits([cell for cell in cells if cell["metric"] == metric])
        for name in named:
            found = _levels(
                [c for c in report["cells"] if c["metric"] == metric], name, report, several=several
            )
            if any(level.cell["values"] for level in found):
                title = title_of(name, report["row_axes"]) if several else name
                panels.append(_panel(title, metric, found, limits, left=16 + LETTER * longest))
    published = any(cell["published"] for cell in cells)
    keys = [Key("one trial", 0, "dot"), Key("mean", 0, "bar")]
    keys += [Key("published", 0, "diamond")] if published else []
    says = "Every finished trial is a dot."
    if any(len(cell["values"]) >= BOXED for cell in cells):
        says += f" With {BOXED} or more, a box shows the middle half and the median; whiskers show the range."
        keys.insert(1, Key("quartiles", 0, "box"))
    return Group("Seed by seed", says, panels, keys)


def _levels(cells: Sequence[Cell], title: str, report: TableRecord, *, several: bool) -> list[Level]:
    if not several:
        return [Level(cell["row"], cell, 0) for cell in cells]
    order = list(report["columns"])
    return [
        Level(cell["column"], cell, order.index(cell["column"])) for cell in cells if cell["row"] == title
    ]


def _limits(cells: Sequence[Cell]) -> tuple[float, float]:
    """The limits of the axis: the full range for a share, else that of the values with a margin."""
    if cells[0]["unit"] == PERCENT:
        return -2, 102
    values = [v for cell in cells for v in cell["values"].values()]
    values += [cell["published"]["value"] for cell in cells if cell["published"]]
    room = (max(values) - min(values)) * 0.06 or abs(values[0]) * 0.1 or 1
    return min(values) - room, max(values) + room


def _panel(
    title: str, metric: str, levels: Sequence[Level], limits: tuple[float, float], *, left: int
) -> Panel:
    unit = levels[0].cell["unit"]
    with panel(height=TOP + BOTTOM + LEVEL * len(levels), left=left) as (figure, axes):
        for i, level in enumerate(levels):
            if level.cell["values"]:
                _dots(axes, level, i, unit)
            else:
                axes.text(sum(limits) / 2, i, absent(level.cell), color=FAINT, ha="center", va="center")
        axes.set_xlim(*limits)
        axes.set_ylim(len(levels) - 0.5, -0.5)
        axes.set_yticks(range(len(levels)), [_short(level.name) for level in levels])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=5 if unit == PERCENT else 4)
        axes.set_xlabel(f"{metric}{',' if unit else ''}{suffix(unit)}", labelpad=1)
        values = "; ".join(f"{v.name} {spread(list(v.cell['values'].values()), unit)}" for v in levels)
        return Panel(title, svg(figure, f"{title}, {metric}{suffix(unit)}: {values}"))


def _dots(axes: Axes, level: Level, at: int, unit: Unit) -> None:
    factor, cell, name = scale(unit), level.cell, level.name
    if cell["published"]:
        value = cell["published"]["value"]
        tooltip = f"{name}, published: {shown(value, unit)}{suffix(unit)}"
        dot(axes, value * factor, at, tooltip, face=PAPER, edge=FAINT, mark="D")
    if len(cell["values"]) >= BOXED:
        _box(axes, [value * factor for value in cell["values"].values()], at, colour(level.index))
    for seed, value in cell["values"].items():
        tooltip = f"{name}, seed {seed}: {shown(value, unit)}{suffix(unit)}"
        dot(axes, value * factor, at, tooltip, face=colour(level.index), mark=marker(level.index))
    mean = cell["mean"] if cell["mean"] is not None else math.nan
    tooltip = tip(f"{name}, mean: {shown(mean, unit)}{suffix(unit)}")
    axes.plot([mean * factor] * 2, [at - 0.36, at + 0.36], color=INK, linewidth=1.6, gid=tooltip, zorder=5)


def _box(axes: Axes, values: Sequence[float], at: int, shade: str) -> None:
    """A box plot (Tukey, 1977) with whiskers to the smallest and the largest value."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    top, bottom = at - BOX / 2, at + BOX / 2
    axes.fill(
        [low, high, high, low], [top, top, bottom, bottom], color=shade, alpha=0.22, linewidth=0, zorder=1
    )
    for ends in ((min(values), low), (high, max(values))):
        axes.plot(ends, [at, at], color=shade, linewidth=1, zorder=1)
    axes.plot([middle] * 2, [top, bottom], color=shade, linewidth=1.6, zorder=2)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
