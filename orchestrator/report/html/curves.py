"""Curves over epochs, of training and of probes: a panel for each row, a line for each column with the range
of its trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from orchestrator.report.html.figure import PAPER, SERIES, colour, dash, dot, panel, svg
from orchestrator.report.html.grouping import (
    Group,
    Key,
    Panel,
    Picker,
    Sweep,
    Trial,
    band,
    columns,
    curve_of,
    done,
    legend,
    rows,
    title_of,
    transposed_if_wide,
)
from orchestrator.report.wording import decimals, fixed
from trainers.probe_view import PERCENT, Unit


@dataclass(frozen=True, kw_only=True)
class Point:
    """A dot on a curve; `says` is its tooltip."""

    x: float
    y: float
    filled: bool
    says: str


Marks = Callable[[Trial], Sequence[Point]]
Series = Sequence[tuple[int, str]]  # columns with their numbers


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How curves are drawn: `pick` gets the curve of a trial as it is shown in `unit`, `faint` a second,
    thinner one; `name` is that of the curve; `marks` are single points of a trial; `along` is the title of
    the axis."""

    pick: Picker
    name: str
    unit: Unit
    faint: Picker | None = None
    marks: Marks = lambda _: ()
    along: str = "epoch"


def learning(sweep: Sweep) -> Group | None:
    """Learning curves: accuracy on test images and training batches after every epoch. None without any."""
    sweep = transposed_if_wide(sweep)

    def picker(name: str) -> Picker:
        return lambda trial: _history(trial, name)

    drawing = Drawing(pick=picker("test/clean_acc"), name="accuracy", unit=PERCENT, faint=picker("train/acc"))
    panels = by_row(sweep, drawing)
    if not panels:
        return None
    keys = [*legend(columns(sweep)), Key("on training batches", -1, "thin"), Key("all seeds", -1, "band")]
    says = "Accuracy on clean test images in % after every epoch: the mean over seeds, and their range."
    return Group("Learning curves", says, panels, keys)


def by_row(sweep: Sweep, drawing: Drawing) -> list[Panel]:
    """A panel for each row that has a curve, or several if it has more lines than there are colours; all on
    one scale."""
    limits = (-2.0, 102.0) if drawing.unit == PERCENT else _shared(sweep, drawing.pick)
    series = list(enumerate(columns(sweep)))
    parts = [series[i : i + SERIES] for i in range(0, len(series), SERIES)]
    found = (_panel(sweep, row, part, drawing, limits) for row in rows(sweep) for part in parts)
    return [one for one in found if one is not None]


def _shared(sweep: Sweep, pick: Picker) -> tuple[float, float]:
    """Common limits: from zero or the lowest value to the highest, with a margin."""
    values = [
        v for trial in sweep["trials"] if trial["state"] == "done" for v in (pick(trial) or ([], []))[1]
    ]
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.04 * (high - low) or 1
    return low - room, high + room


def _panel(
    sweep: Sweep, row: str, series: Series, drawing: Drawing, limits: tuple[float, float]
) -> Panel | None:
    """The curves of a row in these columns, which have numbers; None without any."""
    ends, title = [], title_of(row, sweep["row_axes"])
    if len(columns(sweep)) > len(series):
        title += f", {series[0][1]} to {series[-1][1]}"
    with panel() as (figure, axes):
        for i, column in series:
            trials = done(sweep, row, column)
            end = _series(axes, trials, drawing, i)
            if end is not None:
                places = 2 if drawing.unit == PERCENT else decimals(end)
                ends.append(f"{column} {fixed(end, places)}".strip())
        if not ends:
            return None
        axes.set_ylim(*limits)
        axes.set_xlabel(drawing.along, labelpad=1)
        axes.margins(x=0.02)
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.locator_params(axis="y", nbins=5)
        unit = f", {drawing.unit}" if drawing.unit else ""
        return Panel(title, svg(figure, f"{title}: {drawing.name}{unit}, at the end: {', '.join(ends)}"))


def _series(axes: Axes, trials: Sequence[Trial], drawing: Drawing, index: int) -> float | None:
    """Draw one column's curves. Returns the final mean; None if the column has no curve."""
    found = band(trials, drawing.pick)
    if found is None:
        return None
    axes.fill_between(found.x, found.low, found.high, color=colour(index), alpha=0.18, linewidth=0, zorder=2)
    axes.plot(found.x, found.mean, color=colour(index), linestyle=dash(index), zorder=3)
    if drawing.faint and (other := band(trials, drawing.faint)):
        axes.plot(other.x, other.mean, color=colour(index), linewidth=0.8, alpha=0.65, zorder=2)
    for point in (point for trial in trials for point in drawing.marks(trial)):
        face = colour(index) if point.filled else PAPER
        dot(axes, point.x, point.y, point.says, face=face, edge=colour(index))
    return found.mean[-1]


def _history(trial: Trial, name: str) -> tuple[list[float], list[float]] | None:
    curves = trial.get("curves") or {}
    return curve_of(curves["epoch"], curves[name], 100) if name in curves else None
