"""The sections of probes: a table and curves for every probe, pictures for some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.planning.snapshot import METRIC
from orchestrator.report.html.curves import Drawing, Marks, by_row
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
)
from orchestrator.report.html.numbers import shown, spread, unit
from orchestrator.report.html.surfaces import surfaces
from orchestrator.report.html.trials import chosen

SAYS = {
    "distance": "Distance of the weights from their initial values, relative to the initial norm, after each "
    "epoch. A dot marks the first epoch that fits the training images.",
    "early_stopping": "Accuracy on clean images used neither for training nor for selection. A filled dot is "
    "the epoch that is best on held-out clean images, a hollow dot the best of all.",
    "loss_surface": "Loss around the trained weights, along two filter-normalised random directions. The "
    "cross is the network itself; colours are the loss in nats.",
    "first_layer": "Responses of the first convolution: an image, and the mean magnitude over channels; the "
    "largest is white.",
    "shuffle_test": "Accuracy on sets of perturbed images; in a shuffled set, each image carries the "
    "perturbation of another.",
    "fine_tune": "Accuracy on clean test images while a network trained on clean images is trained further "
    "on each set.",
    "linear_separability": "How well a linear classifier predicts the labels from the perturbation alone.",
}
DRAWN = {"distance": ("relative",), "early_stopping": ("rest_acc",)}  # for other probes, all curves
ABOUT_SETS = ("fine_tune",)  # their curves are accuracies, named after sets, and begin before the first epoch


def probe_groups(sweep: Sweep) -> list[Group]:
    """For each probe with findings, its figures, and its table unless the report has one."""
    names = dict.fromkeys(name for trial in sweep["trials"] for name in trial.get("findings", {}))
    groups = (_group(sweep, name) for name in names)
    return [group for group in groups if group.panels or group.rows]


def heading(sweep: Sweep, name: str, figures: Sequence[Group]) -> dict[str, str]:
    """The title above a probe's table, and a description of the probe unless the page's `figures` have it.
    The probe's kind is read from the trials with a finding."""
    findings = (trial["findings"][name] for trial in sweep["trials"] if name in trial.get("findings", {}))
    kind = next((finding["kind"] for finding in findings), name)
    title = _title(name, kind)
    drawn = any(group.title == f"{title}: figures" for group in figures)
    return {"title": title, "says": "" if drawn else SAYS.get(kind, "")}


def _group(sweep: Sweep, name: str) -> Group:
    having = [trial for trial in sweep["trials"] if name in trial.get("findings", {})]
    kind = having[0]["findings"][name]["kind"]
    panels, keys = PICTURES.get(kind, _curves)(sweep, name)
    if any(table["probe"] == name for table in sweep["report"].get("probes", ())):
        return Group(f"{_title(name, kind)}: figures", SAYS.get(kind, ""), panels, keys)
    numbers, labels = _table(sweep, name), sum(_labels(sweep))
    return Group(_title(name, kind), SAYS.get(kind, ""), panels, keys, numbers, labels)


def _title(name: str, kind: str) -> str:
    return (name if name == kind else f"{name} ({kind})").replace("_", " ")


def _found(trial: Trial, name: str) -> dict[str, Any]:
    return dict(trial.get("findings", {}).get(name, {}))


def _table(sweep: Sweep, name: str) -> list[list[str]]:
    """Means over seeds: a line for each cell, a column for each metric."""
    known = [(row, column, trials) for row, column, trials in cells(sweep)]
    metrics = dict.fromkeys(m for _, _, ts in known for t in ts for m in _found(t, name).get("metrics", {}))
    labels = _labels(sweep)
    head = [text for text, wanted in zip(_axes(sweep), labels, strict=True) if wanted]
    lines = [head + [f"{metric.replace('_', ' ')}{unit(metric)}" for metric in metrics]]
    for row, column, trials in known:
        means = [_spread(trials, name, metric) for metric in metrics]
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


def _spread(trials: Sequence[Trial], name: str, metric: str) -> str:
    values = [_found(trial, name).get("metrics", {}).get(metric) for trial in trials]
    return spread([value for value in values if value is not None], metric)


def _curves(sweep: Sweep, name: str) -> tuple[list[Panel], list[Key]]:
    """A panel for each row, for one curve after the other."""
    finding = next(f for trial in sweep["trials"] if (f := _found(trial, name)))
    kind = finding["kind"]
    names = dict.fromkeys(c for trial in sweep["trials"] for c in _found(trial, name).get("curves", {}))
    drawn = [curve for curve in names if curve in DRAWN.get(kind, (curve,))]
    panels = []
    for curve in drawn:
        share = kind in ABOUT_SETS or curve.endswith("acc")
        drawing = Drawing(
            _picker(name, curve, 100 if share else 1),
            f"{curve.replace('_', ' ')}{', %' if share else ''}",
            (-2, 102) if share else None,
            marks=MARKS.get(kind, _none)(name),
        )
        prefix = f"{curve}: " if len(drawn) > 1 else ""
        panels += [Panel(prefix + one.title, one.svg, one.note) for one in by_row(sweep, drawing)]
    return panels, legend(columns(sweep)) if panels else []


def _picker(name: str, curve: str, factor: float) -> Picker:
    def pick(trial: Trial) -> Curve | None:
        found = _found(trial, name)
        if curve not in found.get("curves", {}):
            return None
        begin = 0 if found["kind"] in ABOUT_SETS else 1
        epochs = [float(i + begin) for i in chosen(found["length"])]
        return curve_of(epochs, found["curves"][curve], factor)

    return pick


def _none(_: str) -> Marks:
    return lambda trial: ()


def _stops(name: str) -> Marks:
    def marks(trial: Trial) -> list[tuple[float, float, bool, str]]:
        found = _found(trial, name).get("metrics", {})
        points = (("peak", False, "best of all"), ("stopped", True, "best on held-out images"))
        return [
            (found[f"{which}_epoch"], 100 * found[f"{which}_acc"], filled, _at(what, found, which))
            for which, filled, what in points
            if found.get(f"{which}_epoch") is not None and found.get(f"{which}_acc") is not None
        ]

    return marks


def _at(what: str, found: dict[str, float], which: str) -> str:
    return f"{what}: {shown(found[f'{which}_acc'], 'acc')} % at epoch {found[f'{which}_epoch']:.0f}"


def _fits(name: str) -> Marks:
    def marks(trial: Trial) -> list[tuple[float, float, bool, str]]:
        found = _found(trial, name)
        epoch = found.get("metrics", {}).get("epoch_at_90")
        curve = _picker(name, "relative", 1)(trial)
        if epoch is None or not curve or not curve[0]:
            return []
        nearest = min(range(len(curve[0])), key=lambda i: abs(curve[0][i] - epoch))
        return [(epoch, curve[1][nearest], True, f"fits the training images from epoch {epoch:.0f}")]

    return marks


def _surfaces(sweep: Sweep, name: str) -> tuple[list[Panel], list[Key]]:
    found = [(title, f["fields"], f["metrics"]) for title, f in _pictured(sweep, name)]
    return surfaces(found)


def _responses(sweep: Sweep, name: str) -> tuple[list[Panel], list[Key]]:
    return [_strip(title, found["fields"]) for title, found in _pictured(sweep, name)], []


def _strip(title: str, fields: dict[str, Any]) -> Panel:
    """Images and the responses of the first layer to them, which the template lays out."""
    return Panel(title, images=fields["images"], filters=fields["filters"])


def _pictured(sweep: Sweep, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Titles and findings of the trials that keep the fields for pictures."""
    found = (
        (", ".join(filter(None, (_row(t, sweep), t["column"]))) or t["row"], _found(t, name))
        for _, _, trials in cells(sweep)
        for t in trials
    )
    return [(title, finding) for title, finding in found if finding.get("fields")]


PICTURES: dict[str, Callable[[Sweep, str], tuple[list[Panel], list[Key]]]] = {
    "loss_surface": _surfaces,
    "first_layer": _responses,
}
MARKS: dict[str, Callable[[str], Marks]] = {"early_stopping": _stops, "distance": _fits}
