"""Line charts: results against an axis whose labels are numbers, such as a width, a budget or a count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes

from orchestrator.report.html.figure import FAINT, PAPER, colour, dash, dot, marker, panel, svg
from orchestrator.report.html.grouping import Group, Key, Panel, legend
from orchestrator.report.html.numbers import number, shown, spread, suffix
from orchestrator.report.html.records import CellRecord, TableRecord
from orchestrator.report.table import scale
from trainers.probe_view import PERCENT, Unit

FEWEST = 3  # points that a line needs
WIDE = 16.0  # from this ratio of the largest to the smallest number on, the axis is logarithmic
SIZE = (360, 240)  # pixels

Cell = CellRecord
Side = Literal["row", "column"]


def lines(report: TableRecord) -> Group | None:
    """A panel for each metric. If the rows are numbers, they are the x axis, with a line for each column; if
    the columns are, the other way round; None if neither are."""
    sides: tuple[tuple[Side, Side], ...] = (("row", "column"), ("column", "row"))
    for across, other in sides:
        labels = _labels(report, across)
        numbers = {label: number(label) for label in labels}
        if len(labels) >= FEWEST and None not in numbers.values():
            return _group(report, across, other, {label: v for label, v in numbers.items() if v is not None})
    return None


def _labels(report: TableRecord, side: Side) -> list[str]:
    return report["rows"] if side == "row" else report["columns"]


def _group(report: TableRecord, across: Side, other: Side, numbers: Mapping[str, float]) -> Group | None:
    cells = [cell for cell in report["cells"] if cell["values"]]
    series = _labels(report, other)
    axis = " / ".join(report["row_axes"]) if across == "row" else report["column_axis"] or ""
    panels = []
    for metric in dict.fromkeys(cell["metric"] for cell in cells):
        same = [cell for cell in cells if cell["metric"] == metric]
        unit = same[0]["unit"]
        with panel(*SIZE) as (figure, axes):
            for i, label in enumerate(series):
                chosen = {numbers[c[across]]: c for c in same if c[other] == label}
                _line(axes, [chosen[x] for x in sorted(chosen)], sorted(chosen), i, label)
            _frame(axes, sorted(numbers.values()), numbers, unit, axis)
            values = "; ".join(
                f"{c[other]} at {c[across]}: {spread(list(c['values'].values()), unit)}" for c in same
            )
            panels.append(Panel(metric, svg(figure, f"{metric}{suffix(unit)} against {axis}. {values}")))
    published = any(cell["published"] for cell in cells)
    keys = [*legend(series), *([Key("published", 0, "diamond")] if published else [])]
    return Group(f"Against {axis}", "Lines join means; dots are trials.", panels, keys) if panels else None


def _line(axes: Axes, cells: Sequence[Cell], x: Sequence[float], index: int, label: str) -> None:
    if not cells:
        return
    unit = cells[0]["unit"]
    factor = scale(unit)
    means = [math.nan if cell["mean"] is None else cell["mean"] * factor for cell in cells]
    axes.plot(x, means, color=colour(index), linestyle=dash(index), zorder=2)
    for place, cell in zip(x, cells, strict=True):
        for seed, value in cell["values"].items():
            tooltip = f"{label} at {place:g}, seed {seed}: {shown(value, unit)}{suffix(unit)}"
            dot(axes, place, value * factor, tooltip, face=colour(index), mark=marker(index))
        if cell["published"]:
            value = cell["published"]["value"]
            tooltip = f"{label} at {place:g}, published: {shown(value, unit)}{suffix(unit)}"
            dot(axes, place, value * factor, tooltip, face=PAPER, edge=colour(index), mark="D")


def _frame(axes: Axes, x: Sequence[float], labels: Mapping[str, float], unit: Unit, axis: str) -> None:
    if x[0] > 0 and x[-1] / x[0] >= WIDE:
        axes.set_xscale("log")
        axes.minorticks_off()
    names = {value: label for label, value in labels.items()}
    kept = _apart([math.log(v) if axes.get_xscale() == "log" else v for v in x])
    axes.set_xticks([x[i] for i in kept], [names[x[i]] for i in kept])
    axes.set_xlabel(axis, labelpad=1)
    axes.tick_params(axis="y", labelcolor=FAINT)
    if unit == PERCENT:
        axes.set_ylim(-2, 102)
    axes.margins(x=0.06)


def _apart(places: Sequence[float]) -> list[int]:
    """The indices of the places that get a label, so that no two labels overlap."""
    kept, room = [0], (places[-1] - places[0]) / 11
    for i, place in enumerate(places[1:], 1):
        if place - places[kept[-1]] >= room:
            kept.append(i)
    return kept
