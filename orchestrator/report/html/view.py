"""The template's input, made from a document: every number as text, every figure as SVG."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from orchestrator.planning.snapshot import lack
from orchestrator.report import SheetWarning
from orchestrator.report.html.claims import ClaimView, ComparisonView, claims_view, comparisons_view
from orchestrator.report.html.curves import learning
from orchestrator.report.html.document import Document
from orchestrator.report.html.dot_plots import strips
from orchestrator.report.html.grouping import Group, Sweep, Trial
from orchestrator.report.html.line_charts import lines
from orchestrator.report.html.numbers import duration, shown, suffix
from orchestrator.report.html.probe_sections import Heading, heading, probe_groups
from orchestrator.report.html.records import Axis, Counts, DataRecord, ProbeTable, State
from orchestrator.report.html.table import TableView, table_view, without_summary

SHOWN = frozenset(("failed", "stopped", "note"))  # kinds of warnings shown elsewhere on the page
STATES: dict[State, str] = {
    "done": "done",
    "failed": "failed",
    "stopped": "stopped early",
    "missing": "missing",
}


class ProbeTableView(TableView, Heading):
    """The table of a probe, under its heading."""


class CountsView(TypedDict):
    """The progress of a sweep, as text and as percentages of a bar."""

    says: str
    bar: list[tuple[State, float]]


class AxisView(Axis):
    """An axis, and what it is in the table."""

    role: Literal["rows", "columns", "repeats"]


class TrialView(TypedDict):
    """A line of the table of all trials."""

    labels: list[str]
    state: str
    value: str
    seconds: str
    device: str
    when: str
    commit: str
    key: str


class SweepView(TypedDict):
    """The section of a sweep."""

    id: str
    name: str
    question: str
    file: str
    counts: CountsView
    table: TableView
    probes: list[ProbeTableView]
    claims: list[ClaimView]
    comparisons: list[ComparisonView]
    figures: list[Group]
    axes: list[AxisView]
    recipe: list[list[str]]
    notes: list[str]
    failures: list[tuple[str, str]]
    warnings: list[tuple[str, str]]
    trials: list[TrialView]
    trial_axes: list[str]
    metric: str


class DataView(DataRecord):
    """A data set, and when and how long it was made."""

    made: str


class PageView(TypedDict):
    """The variables of the template."""

    title: str
    made: str
    sweeps: list[SweepView]
    data: list[DataView]
    provenance: list[tuple[str, str]]


def view_of(document: Document) -> PageView:
    """The variables of the template."""
    names = [sweep["name"] for sweep in document["sweeps"]]
    anchors = _anchors(names)
    sweeps = [_sweep(sweep, anchor) for sweep, anchor in zip(document["sweeps"], anchors, strict=True)]
    return {
        "title": names[0] if len(names) == 1 else f"{len(names)} sweeps",
        "made": _when(document["made"]),
        "sweeps": sweeps,
        "data": [_data(data) for data in document["data"]],
        "provenance": _provenance(t for sweep in document["sweeps"] for t in sweep["trials"]),
    }


def _sweep(sweep: Sweep, anchor: str) -> SweepView:
    report, figures = sweep["report"], _figures(sweep)
    return {
        "id": anchor,
        "name": sweep["name"],
        "question": sweep["question"],
        "file": sweep["file"],
        "counts": _counts(report["counts"]),
        "table": table_view(report),
        "probes": [_probe_table(table, sweep, figures) for table in report.get("probes", ())],
        "claims": claims_view(report["claims"]),
        "comparisons": comparisons_view(report["comparisons"]),
        "figures": figures,
        "axes": [_axis(axis, sweep) for axis in sweep["axes"]],
        "recipe": sweep["recipe"],
        "notes": report["notes"],
        "failures": _by_text((t, t["error"]) for t in sweep["trials"] if "error" in t),
        "warnings": _warnings(sweep),
        "trials": [_trial(trial, sweep) for trial in sweep["trials"]],
        "trial_axes": [axis["name"] for axis in sweep["axes"]],
        "metric": sweep["metric"] + (f",{suffix(sweep['unit'])}" if sweep["unit"] else ""),
    }


def _probe_table(table: ProbeTable, sweep: Sweep, figures: Sequence[Group]) -> ProbeTableView:
    return {**table_view(table), **heading(sweep, table["probe"], figures)}


def _figures(sweep: Sweep) -> list[Group]:
    measured = without_summary(sweep["report"])
    found = (lines(measured), strips(measured), learning(sweep), *probe_groups(sweep))
    return [group for group in found if group is not None]


def _counts(counts: Counts) -> CountsView:
    total = counts["trials"] or 1
    parts = [(state, counts[state]) for state in STATES if counts[state]]
    words = [f"{number} {STATES[state]}" for state, number in parts]
    words[1:1] = [lack(number, probe) for probe, number in counts.get("lacking", {}).items()]
    return {
        "says": f"{counts['trials']} trials: {', '.join(words)}",
        "bar": [(state, 100 * number / total) for state, number in parts],
    }


def _axis(axis: Axis, sweep: Sweep) -> AxisView:
    down, across = axis["name"] in sweep["row_axes"], axis["name"] == sweep["column_axis"]
    return {**axis, "role": "rows" if down else "columns" if across else "repeats"}


def _by_text(texts: Iterable[tuple[Trial, str]]) -> list[tuple[str, str]]:
    """Each failure or warning once, with the names of its trials."""
    by_text: dict[str, list[str]] = {}
    for trial, text in texts:
        by_text.setdefault(text, []).append(_name(trial))
    return [(text, "; ".join(names)) for text, names in by_text.items()]


def _warnings(sweep: Sweep) -> list[tuple[str, str]]:
    """The report's warnings that the page shows nowhere else, each text once, with its subjects. An old
    document without a list of warnings has those of its trials."""
    if "warnings" not in sweep["report"]:
        return _by_text((t, text) for t in sweep["trials"] for text in t.get("warnings", ()))
    subjects: dict[str, list[str]] = {}
    for record in sweep["report"]["warnings"]:
        one = SheetWarning(**record)  # `Warned` has the same fields
        if one.kind not in SHOWN and (one.subject or one.kind != "missing"):
            subjects.setdefault(one.text, []).append(one.subject or "the whole sweep")
    return [(text, "; ".join(named)) for text, named in subjects.items()]


def _name(trial: Trial) -> str:
    return ", ".join(f"{axis}={label}" for axis, label in trial["labels"].items())


def _trial(trial: Trial, sweep: Sweep) -> TrialView:
    value = (trial.get("metrics") or {}).get(sweep["metric"])
    return {
        "labels": list(trial["labels"].values()),
        "state": ", lacks ".join([STATES[trial["state"]], *trial.get("lacks", ())]),
        "value": "–" if value is None else shown(value, sweep["unit"]),
        "seconds": "–" if trial.get("seconds") is None else f"{trial['seconds']:.0f}",
        "device": trial.get("device") or "–",
        "when": _when(time) if (time := trial.get("time")) else "–",
        "commit": trial.get("commit") or "–",
        "key": trial["key"],
    }


def _data(data: DataRecord) -> DataView:
    made = _when(data["time"]) if data["time"] else ""
    took = f"in {duration(data['seconds'])}" if data["seconds"] is not None else ""
    return {**data, "made": " ".join(filter(None, (made, took)))}


def _provenance(trials: Iterable[Trial]) -> list[tuple[str, str]]:
    """When, how long and on what the finished trials ran; a trial that two sweeps share counts once."""
    known = list({trial["key"]: trial for trial in trials if trial["state"] == "done"}.values())
    if not known:
        return []
    seconds = [trial["seconds"] for trial in known if trial["seconds"] is not None]
    times = sorted(time for trial in known if (time := trial["time"]))
    lines = [("trials", f"{len(known)}")]
    if seconds:
        middle = duration(statistics.median(seconds))
        lines.append(("machine time", f"{sum(seconds) / 3600:.2f} hours, median {middle} per trial"))
        lines += _hours(known)
    if machines := {trial["machine"] for trial in known if trial.get("machine")}:
        lines.append(("machines", f"{len(machines)}"))
    if times:
        lines.append(("finished", f"{_when(times[0])} to {_when(times[-1])}"))
    for field in ("device", "cpu", "platform", "precision", "threads", "commit", "python"):
        lines += _counted(field, [str(trial[field]) for trial in known if trial.get(field) is not None])
    packages = dict.fromkeys(name for trial in known for name in trial["versions"] or ())
    for name in packages:
        lines += _counted(name, [found[name] for t in known if name in (found := t["versions"] or {})])
    return lines


def _hours(trials: Iterable[Trial]) -> list[tuple[str, str]]:
    """`cpu 1.20 hours, NVIDIA H200 3.40 hours`, if there are several devices."""
    spent: defaultdict[str, float] = defaultdict(float)
    for trial in trials:
        spent[trial["device"] or "unknown"] += trial["seconds"] or 0
    text = ", ".join(f"{device} {seconds / 3600:.2f} hours" for device, seconds in spent.items())
    return [("by device", text)] if len(spent) > 1 else []


def _counted(name: str, values: Sequence[str]) -> list[tuple[str, str]]:
    """`cpu`, or `cpu (12), NVIDIA H200 (4)`."""
    counts = Counter(values)
    if len(counts) < 2:
        return [(name, value) for value in counts]
    return [(name, ", ".join(f"{value} ({number})" for value, number in counts.items()))]


def _when(time: str) -> str:
    """`2026-11-25 04:59 UTC`"""
    return time[:16].replace("T", " ") + " UTC"


def _anchors(names: Sequence[str]) -> list[str]:
    """A unique id for each sweep."""
    made: list[str] = []
    for name in names:
        plain = "sweep-" + re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
        made.append(plain if plain not in made else f"{plain}-{len(made)}")
    return made
