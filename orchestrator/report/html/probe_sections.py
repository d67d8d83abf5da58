"""The sections of probes: a table, curves and a picture, as the view of each probe describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from orchestrator.planning.snapshot import METRIC
from orchestrator.report.html.curves import Drawing, Marks, Point, by_row
from orchestrator.report.html.grouping import (
    Curve,
    Group,
    Key,
    Panel,
    Picker,
    Sweep,
    Trial,
    cells,
    columns,
    curve_of,
    legend,
    rows,
    title_of,
    transposed_if_wide,
)
from orchestrator.report.html.heat_maps import Mapped, heat_maps
from orchestrator.report.html.numbers import shown, spread, suffix
from orchestrator.report.html.records import FindingRecord, Grid, MappedImages
from orchestrator.report.html.trials import chosen
from orchestrator.report.table import scale
from trainers.probe_view import Mark, ProbeView, Unit

Metrics = Mapping[str, float | None]


class Heading(TypedDict):
    """What stands above a probe's table."""

    title: str
    says: str


def probe_groups(sweep: Sweep) -> list[Group]:
    """For each probe with findings, its figures, and its table unless the report has one."""
    names = dict.fromkeys(name for trial in sweep["trials"] for name in trial.get("findings", {}))
    groups = (_group(sweep, name) for name in names)
    return [group for group in groups if group.panels or group.rows]


def heading(sweep: Sweep, name: str, figures: Sequence[Group]) -> Heading:
    """The title above a probe's table, and a description of the probe unless the page's `figures` have it."""
    title = _title(sweep, name)
    drawn = any(group.title == f"{title}: figures" for group in figures)
    return Heading(title=title, says="" if drawn else _view(sweep, name).get("says", ""))


def _group(sweep: Sweep, name: str) -> Group:
    says = _view(sweep, name).get("says", "")
    (curves, lines), (pictures, shades) = _curves(sweep, name), _pictures(sweep, name)
    panels, keys = [*curves, *pictures], [*lines, *shades]
    if any(table["probe"] == name for table in sweep["report"].get("probes", ())):
        return Group(f"{_title(sweep, name)}: figures", says, panels, keys)
    return Group(_title(sweep, name), says, panels, keys, _table(sweep, name), sum(_labels(sweep)))


def _title(sweep: Sweep, name: str) -> str:
    """`loss surface`, or `wide (loss surface)` for a probe with a name of its own."""
    kind = next((found["kind"] for trial in sweep["trials"] if (found := _found(trial, name))), name)
    return (name if name == kind else f"{name} ({kind})").replace("_", " ")


def _view(sweep: Sweep, name: str) -> ProbeView:
    return sweep["views"].get(name, ProbeView())


def _unit(view: ProbeView, name: str) -> Unit:
    return view.get("units", {}).get(name, "")


def _found(trial: Trial, name: str) -> FindingRecord | None:
    return trial.get("findings", {}).get(name)


def _metrics(trial: Trial, name: str) -> Metrics:
    found = _found(trial, name)
    return found["metrics"] if found else {}


def _table(sweep: Sweep, name: str) -> list[list[str]]:
    """Means over seeds: a line for each cell, a column for each metric."""
    known, view = list(cells(sweep)), _view(sweep, name)
    metrics = dict.fromkeys(metric for _, _, trials in known for t in trials for metric in _metrics(t, name))
    labels = _labels(sweep)
    head = [text for text, wanted in zip(_axes(sweep), labels, strict=True) if wanted]
    lines = [head + [f"{metric.replace('_', ' ')}{suffix(_unit(view, metric))}" for metric in metrics]]
    for row, column, trials in known:
        means = [_spread(trials, name, metric, _unit(view, metric)) for metric in metrics]
        if any(text != "–" for text in means):
            lines.append([text for text, wanted in zip((row, column), labels, strict=True) if wanted] + means)
    return lines if metrics else []


def _axes(sweep: Sweep) -> tuple[str, str]:
    down = [axis for axis in sweep["row_axes"] if axis != METRIC]
    return " / ".join(down) or "sweep", sweep["column_axis"] or ""


def _labels(sweep: Sweep) -> tuple[bool, bool]:
    """Whether a table labels rows, and columns. A single row gets no label if columns have one."""
    across = columns(sweep) != [""]
    return not across or rows(sweep) != [sweep["name"]], across


def _row(trial: Trial, sweep: Sweep) -> str:
    """The trial's row as a title; empty if the only row is the sweep itself."""
    return "" if trial["row"] == sweep["name"] else title_of(trial["row"], sweep["row_axes"])


def _spread(trials: Sequence[Trial], name: str, metric: str, unit: Unit) -> str:
    values = [_metrics(trial, name).get(metric) for trial in trials]
    return spread([value for value in values if value is not None], unit)


def _curves(sweep: Sweep, name: str) -> tuple[list[Panel], list[Key]]:
    """A panel for each row, for one curve after the other."""
    sweep, view = transposed_if_wide(sweep), _view(sweep, name)
    found = (_found(trial, name) for trial in sweep["trials"])
    names = dict.fromkeys(curve for one in found if one for curve in one["curves"])
    drawn = [curve for curve in names if curve in view.get("curves", names)]
    panels = []
    for curve in drawn:
        pick = _picker(name, curve, view)
        marks = [mark for mark in view.get("marks", ()) if mark["curve"] == curve]
        drawing = Drawing(
            pick=pick,
            name=curve.replace("_", " "),
            unit=_unit(view, curve),
            marks=_marks(name, marks, pick, view),
            along=view.get("along", "epoch"),
        )
        prefix = f"{curve}: " if len(drawn) > 1 else ""
        panels += [Panel(prefix + one.title, one.svg, one.note) for one in by_row(sweep, drawing)]
    return panels, legend(columns(sweep)) if panels else []


def _picker(name: str, curve: str, view: ProbeView) -> Picker:
    factor, first = scale(_unit(view, curve)), view.get("first_epoch", 1)

    def pick(trial: Trial) -> Curve | None:
        found = _found(trial, name)
        if found is None or curve not in found["curves"]:
            return None
        epochs = [float(i + first) for i in chosen(found["length"])]
        return curve_of(epochs, found["curves"][curve], factor)

    return pick


def _marks(name: str, marks: Sequence[Mark], pick: Picker, view: ProbeView) -> Marks:
    def of(trial: Trial) -> list[Point]:
        points = (_point(mark, _metrics(trial, name), pick(trial), view) for mark in marks)
        return [point for point in points if point is not None]

    return of


def _point(mark: Mark, metrics: Metrics, curve: Curve | None, view: ProbeView) -> Point | None:
    """A mark of a trial with these metrics and this curve; None if it lacks them."""
    epoch, unit = metrics.get(mark["epoch"]), _unit(view, mark.get("value", mark["curve"]))
    value = metrics.get(mark["value"]) if "value" in mark else _nearest(curve, epoch, scale(unit))
    if epoch is None or value is None:
        return None
    says = mark["says"].replace("{epoch}", f"{epoch:.0f}")
    says = says.replace("{value}", f"{shown(value, unit)}{suffix(unit)}")
    return Point(x=epoch, y=value * scale(unit), filled=mark["filled"], says=says)


def _nearest(curve: Curve | None, epoch: float | None, factor: int) -> float | None:
    """The number of a curve at the epoch nearest to this one, before it was multiplied by `factor`."""
    if epoch is None or not curve or not curve[0]:
        return None
    nearest = min(range(len(curve[0])), key=lambda i: abs(curve[0][i] - epoch))
    return curve[1][nearest] / factor


def _pictures(sweep: Sweep, name: str) -> tuple[list[Panel], list[Key]]:
    """The pictures of the trials that keep one, and a legend."""
    view = _view(sweep, name).get("picture")
    if view is None:
        return [], []
    found = _pictured(sweep, name)
    if view["kind"] == "heat_map":
        maps = [Mapped(title, one, metrics) for title, one, metrics in found if one["kind"] == "heat_map"]
        return heat_maps(maps, view)
    panels = [
        Panel(title, images=one["images"], filters=one["filters"], shows=view["shows"])
        for title, one, _ in found
        if one["kind"] == "image_maps"
    ]
    return panels, []


def _pictured(sweep: Sweep, name: str) -> Iterator[tuple[str, Grid | MappedImages, Metrics]]:
    """The title, the picture and the metrics of each trial that keeps a picture."""
    for trial in (trial for _, _, trials in cells(sweep) for trial in trials):
        found = _found(trial, name)
        if found is not None and "picture" in found:
            title = ", ".join(filter(None, (_row(trial, sweep), trial["column"]))) or trial["row"]
            yield title, found["picture"], found["metrics"]
