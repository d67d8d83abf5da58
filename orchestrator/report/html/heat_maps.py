"""Heat maps side by side, as contours on one scale, so that they can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from orchestrator.report.html.figure import LEFT, PAPER, RIGHT, TOP, panel, svg
from orchestrator.report.html.grouping import Key, Panel
from orchestrator.report.html.records import Grid
from trainers.probe_view import HeatMap

LEVELS = 10  # contour levels
SIDE, SHORT = 190, 20  # the side of a map, and the margin below it, pixels
COLOURS = "viridis"

Array = np.ndarray[Any, Any]


class Mapped(NamedTuple):
    """A heat map to draw: its title, its grid, and the metrics of its trial."""

    title: str
    grid: Grid
    metrics: Mapping[str, float | None]


def heat_maps(found: Sequence[Mapped], view: HeatMap) -> tuple[list[Panel], list[Key]]:
    """A panel for each map, and the legend of their common scale."""
    if not found:
        return [], []
    values = [np.asarray(one.grid["values"], float) for one in found]
    levels = log_levels(values) if view["scale"] == "log" else linear_levels(values)
    shades = [mpl.colors.to_hex(shade) for shade in mpl.colormaps[COLOURS](np.linspace(0, 1, LEVELS - 1))]
    panels = [_panel(one, view, levels, shades) for one in found]
    names = [f"{low:.2g} to {high:.2g}" for low, high in pairwise(levels)]
    names[0], names[-1] = f"below {levels[1]:.2g}", f"above {levels[-2]:.2g}"
    return panels, [Key(name, -1, shade) for name, shade in zip(names, shades, strict=True)]


def log_levels(maps: Sequence[Array]) -> Array:
    """The contour levels, in equal logarithmic steps from the smallest number to the 95th percentile of the
    steepest map. Points that diverged, with a practically infinite loss, must not stretch the scale."""
    low = max(min(float(values.min()) for values in maps), 1e-3)
    high = max(float(np.percentile(values, 95)) for values in maps)
    return np.geomspace(low, max(min(high, 1e4), low * 1.5), LEVELS)


def linear_levels(maps: Sequence[Array]) -> Array:
    """The contour levels, in equal steps from the smallest number to the largest 95th percentile of a map;
    for maps that are flat, upwards from their number."""
    low = min(float(values.min()) for values in maps)
    high = max(float(np.percentile(values, 95)) for values in maps)
    flat = high - low <= 1e-6 * max(abs(low), abs(high))
    return np.linspace(low, low + max(1.0, abs(low)) if flat else high, LEVELS)


def _panel(one: Mapped, view: HeatMap, levels: Array, shades: Sequence[str]) -> Panel:
    x, y = one.grid["x"], one.grid["y"]
    values = np.asarray(one.grid["values"], float).clip(levels[0], levels[-1])
    with panel(SIDE + LEFT + RIGHT, SIDE + TOP + SHORT, bottom=SHORT) as (figure, axes):
        axes.contourf(x, y, values, colors=shades, levels=levels, zorder=1)
        _lines(axes, one.grid, values, levels)
        if view.get("cross"):
            axes.plot([0], [0], marker="+", markersize=9, markeredgewidth=1.6, color="#ffffff", zorder=4)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.locator_params(nbins=5)
        note = ", ".join(
            f"{name.replace('_', ' ')} {number:.3g}"
            for name in view.get("metrics", ())
            if (number := one.metrics.get(name)) is not None
        )
        shows = view["shows"][:1].upper() + view["shows"][1:]
        return Panel(one.title, svg(figure, f"{shows} of {one.title}: {note}"), note)


def _lines(axes: Axes, grid: Grid, values: Array, levels: Array) -> None:
    """Thin lines between shades, at the levels that the map crosses."""
    inside = [level for level in levels[1:-1] if values.min() < level < values.max()]
    if inside:
        axes.contour(grid["x"], grid["y"], values, levels=inside, colors=PAPER, linewidths=0.5, zorder=2)
