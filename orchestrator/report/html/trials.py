"""The trials of a sweep as records of a document, with curves thinned to the resolution of a figure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import METRIC, Entry, Snapshot
from orchestrator.report.html.records import POINTS, FindingRecord, State, TrialRecord
from orchestrator.report.html.thumbnails import picture_of
from orchestrator.storage.records import Finding, Result

CURVES = ("test/clean_acc", "train/acc")  # the metrics of a history that are drawn


def trial_records(status: SweepStatus, records: Mapping[str, Result]) -> list[TrialRecord]:
    """A record of every trial of the sweep, in its order. `records` are complete results by key, if they were
    read; a trial without one has no curves."""
    visited: set[tuple[str, str]] = set()
    trials = []
    for entry in status.snapshot.entries:
        record = records.get(entry.key) or status.results.get(entry.key)
        place = cell_of(status.snapshot, entry.labels)
        first = record is not None and place not in visited
        if first:
            visited.add(place)
        found = status.findings.get(entry.key, {}) if record is not None else {}
        trial = _trial_record(entry, status, record)
        if found:
            trial["findings"] = _findings(found, status.snapshot, first=first)
        trials.append(trial)
    return trials


def cell_of(snapshot: Snapshot, labels: Mapping[str, str]) -> tuple[str, str]:
    """The labels of the row and column that a trial belongs to, regardless of the metric shown."""
    axes = [axis for axis in snapshot.row_axes if axis != METRIC]
    column = snapshot.column_axis
    return (
        ", ".join(labels[axis] for axis in axes) or snapshot.name,
        labels.get(column, "") if column and column != METRIC else "",
    )


def _trial_record(entry: Entry, status: SweepStatus, record: Result | None) -> TrialRecord:
    """The record of a trial, with its failure or, if it is done, that of a probe."""
    failure = status.failures.get(entry.key)
    if record is not None:
        trial = _done(entry, status, record)
    elif entry.key in status.stopped:
        return _planned(entry, status, "stopped")
    else:
        trial = _planned(entry, status, "missing" if failure is None else "failed")
    if failure is not None:
        trial["error"], trial["attempts"] = str(failure.get("error", "")), failure.get("attempts", 1)
    return trial


def _planned(entry: Entry, status: SweepStatus, state: State) -> TrialRecord:
    row, column = cell_of(status.snapshot, entry.labels)
    return {"key": entry.key, "labels": entry.labels, "row": row, "column": column, "state": state}


def _done(entry: Entry, status: SweepStatus, record: Result) -> TrialRecord:
    """A finished trial; None for what results of older versions do not record."""
    env, platform = record.get("environment", {}), record.get("platform")
    metrics = status.results[entry.key]["metrics"]
    return {
        **_planned(entry, status, "done"),
        "metrics": {name: finite(value) for name, value in metrics.items()},
        "curves": _history(record.get("history", ())),
        "seconds": record.get("seconds"),
        "device": record.get("device"),
        "precision": record.get("precision"),
        "threads": record.get("threads"),
        "parameters": record.get("parameters"),
        "platform": platform["name"] if platform else None,
        "cpu": platform.get("cpu") if platform else None,
        "warnings": list(record.get("warnings", ())),
        "time": env.get("time"),
        "commit": env.get("commit"),
        "python": env.get("python"),
        "versions": env.get("versions"),
        "machine": _machine(env.get("host")),
        "needs": list(record.get("needs", ())),
        "lacks": list(status.lacking.get(entry.key, ())),
    }


def _machine(host: str | None) -> str | None:
    """An anonymous id of a machine: pages are published, so they do not name hosts."""
    return None if host is None else hashlib.sha256(host.encode()).hexdigest()[:6]


def _findings(
    findings: Mapping[str, Finding], snapshot: Snapshot, *, first: bool
) -> dict[str, FindingRecord]:
    """The findings of a trial as the document keeps them. Only the `first` trial of a cell keeps pictures."""
    found = {}
    for name, record in findings.items():
        found[name] = _finding(record)
        view = snapshot.probes[name]["view"].get("picture")
        if first and view is not None and (fields := record.get("fields")):
            found[name]["picture"] = picture_of(name, view, fields)
    return found


def _finding(found: Finding) -> FindingRecord:
    return {
        "kind": found["probe"]["kind"],
        "metrics": {name: finite(value) for name, value in found.get("metrics", {}).items()},
        "curves": {name: thinned(values) for name, values in found.get("curves", {}).items()},
        "length": max((len(values) for values in found.get("curves", {}).values()), default=0),
        "seconds": found.get("seconds"),
    }


def _history(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """The epochs and the curves of a history, all thinned alike."""
    if not rows:
        return {}
    names = [name for name in CURVES if any(name in row for row in rows)]
    return {name: thinned([row.get(name, math.nan) for row in rows]) for name in ("epoch", *names)}


def thinned(values: Sequence[float]) -> list[float | None]:
    """At most `POINTS` of the numbers, evenly spaced, with the first and the last; None for a number that is
    not finite. The last is not rounded, because the page also shows it as text."""
    kept = chosen(len(values))
    return [*(rounded(values[i]) for i in kept[:-1]), *(finite(values[i]) for i in kept[-1:])]


def chosen(length: int) -> list[int]:
    """The indices of the points to keep, out of `length`."""
    if length <= POINTS:
        return list(range(length))
    return [round(i * (length - 1) / (POINTS - 1)) for i in range(POINTS)]


def finite(value: float) -> float | None:
    """The number; None if it is not finite, which JSON cannot represent."""
    return value if math.isfinite(value) else None


def rounded(value: float) -> float | None:
    """The number to five significant digits; None if it is not finite, which JSON cannot represent."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def recipe(records: Iterable[Result]) -> list[tuple[str, str]]:
    """The settings that all trials share, as dotted paths and values, without local paths."""
    specs = [dict(_flat(record["spec"])) for record in records if "spec" in record]
    if not specs:
        return []
    first, *others = specs
    same = {path: v for path, v in first.items() if all(other.get(path, _flat) == v for other in others)}
    return [(path, _as_text(value)) for path, value in same.items() if not _local(value)]


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _local(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.startswith(("/", "~")))


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, dict):
        inside = ", ".join(f"{k}: {_as_text(v)}" for k, v in value.items() if k != "kind" and v is not None)
        return f"{value.get('kind', '')} ({inside})".strip() if inside else str(value.get("kind", "-"))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
