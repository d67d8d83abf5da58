"""Loss surfaces side by side, as contours on one scale, so that their sharpness can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from orchestrator.report.html.figure import LEFT, PAPER, RIGHT, TOP, panel, svg
from orchestrator.report.html.grouping import Key, Panel

LEVELS = 10  # contour levels
SIDE, SHORT = 190, 20  # the side of a map, and the margin below it, pixels
COLOURS = "viridis"

Array = np.ndarray[Any, Any]
Fields = Mapping[str, Any]


def surfaces(found: Sequence[tuple[str, Fields, Mapping[str, float]]]) -> tuple[list[Panel], list[Key]]:
    """A panel for each (title, fields, metrics), and the legend of their common scale: loss in nats, in equal
    logarithmic steps."""
    if not found:
        return [], []
    levels = scale_of([np.asarray(fields["loss"], float) for _, fields, _ in found])
    shades = [mpl.colors.to_hex(shade) for shade in mpl.colormaps[COLOURS](np.linspace(0, 1, LEVELS - 1))]
    panels = [_panel(title, fields, metrics, levels, shades) for title, fields, metrics in found]
    names = [f"{low:.2g} to {high:.2g}" for low, high in pairwise(levels)]
    names[0], names[-1] = f"below {levels[1]:.2g}", f"above {levels[-2]:.2g}"
    return panels, [Key(name, -1, shade) for name, shade in zip(names, shades, strict=True)]


def scale_of(losses: Sequence[Array]) -> Array:
    """The contour levels, in equal logarithmic steps from the smallest loss to the 95th percentile of the
    steepest surface. Points that diverged, with a practically infinite loss, must not stretch the scale."""
    low = max(min(float(loss.min()) for loss in losses), 1e-3)
    high = max(float(np.percentile(loss, 95)) for loss in losses)
    return np.geomspace(low, max(min(high, 1e4), low * 1.5), LEVELS)


def _panel(
    title: str, fields: Fields, metrics: Mapping[str, float], levels: Array, shades: Sequence[str]
) -> Panel:
    loss = np.asarray(fields["loss"], float).clip(levels[0], levels[-1])
    with panel(SIDE + LEFT + RIGHT, SIDE + TOP + SHORT, bottom=SHORT) as (figure, axes):
        axes.contourf(fields["x"], fields["y"], loss, colors=shades, levels=levels, zorder=1)
        _lines(axes, fields, loss, levels)
        axes.plot([0], [0], marker="+", markersize=9, markeredgewidth=1.6, color="#ffffff", zorder=4)
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.locator_params(nbins=5)
        note = ", ".join(
            f"{name.replace('_', ' ')} {metrics[name]:.3g}"
            for name in ("centre_loss", "sharpness")
            if metrics.get(name) is not None
        )
        return Panel(title, svg(figure, f"Loss surface of {title}: {note}"), note)


def _lines(axes: Axes, fields: Fields, loss: Array, levels: Array) -> None:
    """Thin lines between shades, at the levels that the surface crosses."""
    inside = [level for level in levels[1:-1] if loss.min() < level < loss.max()]
    if inside:
        axes.contour(fields["x"], fields["y"], loss, levels=inside, colors=PAPER, linewidths=0.5, zorder=2)
