"""The trials of a sweep as a document holds them: what became of each, thinned to what a picture shows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import METRIC, Entry, Snapshot
from orchestrator.report.html.thumbnails import kept_fields
from orchestrator.storage.records import Record

POINTS = 80  # of a curve, at most: a panel is 320 pixels wide
CURVES = ("test/clean_acc", "train/acc")  # of a history

Trial = dict[str, Any]


def told_trials(status: SweepStatus, records: Mapping[str, Record]) -> list[Trial]:
    """Every trial of the sweep, in its order. `records` are whole results by key, where they are at hand;
    without them a trial has no curves."""
    seen: set[tuple[str, str]] = set()
    told = []
    for entry in status.snapshot.entries:
        record = records.get(entry.key) or status.results.get(entry.key)
        place = cell_of(status.snapshot, entry.labels)
        first = record is not None and place not in seen
        if first:
            seen.add(place)
        found = status.findings.get(entry.key, {}) if record is not None else {}
        told.append(_told(entry, status, record) | _looked(found, first=first))
    return told


def cell_of(snapshot: Snapshot, labels: Mapping[str, str]) -> tuple[str, str]:
    """The labels of the row and of the column that a trial belongs to, whichever metric is shown."""
    axes = [axis for axis in snapshot.row_axes if axis != METRIC]
    column = snapshot.column_axis
    return (
        ", ".join(labels[axis] for axis in axes) or snapshot.name,
        labels.get(column, "") if column and column != METRIC else "",
    )


def _told(entry: Entry, status: SweepStatus, record: Record | None) -> Trial:
    row, column = cell_of(status.snapshot, entry.labels)
    trial: Trial = {"key": entry.key, "labels": entry.labels, "row": row, "column": column}
    if record is None:
        return trial | _unfinished(entry.key, status)
    env = record.get("environment", {})
    return trial | {
        "state": "done",
        "metrics": {name: finite(value) for name, value in status.results[entry.key]["metrics"].items()},
        "curves": _history(record.get("history", ())),
        **{name: record.get(name) for name in ("seconds", "device", "precision", "threads", "parameters")},
        **_platform(record.get("platform")),
        "warnings": list(record.get("warnings", ())),
        **{name: env.get(name) for name in ("time", "commit", "python", "versions")},
        "machine": _machine(env.get("host")),
        "needs": list(record.get("needs", ())),
        "lacks": list(status.lacking.get(entry.key, ())),
        **_failure(entry.key, status),
    }


def _platform(platform: Mapping[str, Any] | None) -> Trial:
    """On what it was computed; None for results of versions that did not record it."""
    return {"platform": (platform or {}).get("name"), "cpu": (platform or {}).get("cpu")}


def _machine(host: str | None) -> str | None:
    """What tells machines apart and does not name them: a page is for others, too."""
    return None if host is None else hashlib.sha256(host.encode()).hexdigest()[:6]


def _unfinished(key: str, status: SweepStatus) -> Trial:
    if key in status.stopped:
        return {"state": "stopped"}
    failure = _failure(key, status)
    return {"state": "failed", **failure} if failure else {"state": "missing"}


def _failure(key: str, status: SweepStatus) -> Trial:
    """The failure of a trial, or of a probe of one that is done; nothing if there is none."""
    failure = status.failures.get(key)
    if failure is None:
        return {}
    return {"error": str(failure.get("error", "")), "attempts": failure.get("attempts", 1)}


def _looked(findings: Mapping[str, Record], *, first: bool) -> Trial:
    found = {name: _finding(record, first=first) for name, record in findings.items()}
    return {"findings": found} if found else {}


def _finding(found: Record, *, first: bool) -> Trial:
    """A look's record; the first trial of a cell alone keeps what pictures are drawn from."""
    kind = found["probe"]["kind"]
    return {
        "kind": kind,
        "metrics": {name: finite(value) for name, value in found.get("metrics", {}).items()},
        "curves": {name: thinned(values) for name, values in found.get("curves", {}).items()},
        "length": max((len(values) for values in found.get("curves", {}).values()), default=0),
        "fields": kept_fields(kind, found.get("fields", {})) if first else {},
    }


def _history(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Epochs, and the numbers of each that are drawn, both thinned alike."""
    if not rows:
        return {}
    names = [name for name in CURVES if any(name in row for row in rows)]
    return {name: thinned([row.get(name, math.nan) for row in rows]) for name in ("epoch", *names)}


def thinned(values: Sequence[float]) -> list[float | None]:
    """At most `POINTS` of the numbers, evenly, with the first and the last; None for what is no number. The
    last, which is written beside a figure, is not rounded before that."""
    kept = chosen(len(values))
    return [*(rounded(values[i]) for i in kept[:-1]), *(finite(values[i]) for i in kept[-1:])]


def chosen(length: int) -> list[int]:
    """Which of so many points are kept."""
    if length <= POINTS:
        return list(range(length))
    return [round(i * (length - 1) / (POINTS - 1)) for i in range(POINTS)]


def finite(value: float) -> float | None:
    """The number; None if it is not finite, which JSON cannot say."""
    return value if math.isfinite(value) else None


def rounded(value: float) -> float | None:
    """To five significant digits; None if it is not finite, which JSON cannot say."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def recipe(records: Iterable[Record]) -> list[tuple[str, str]]:
    """What all trials have in common, as dotted paths and values, but for places on some machine's disk."""
    specs = [dict(_flat(record["spec"])) for record in records if "spec" in record]
    if not specs:
        return []
    first, *others = specs
    same = {path: v for path, v in first.items() if all(other.get(path, _flat) == v for other in others)}
    return [(path, _said(value)) for path, value in same.items() if not _local(value)]


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _local(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.startswith(("/", "~")))


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, dict):
        inside = ", ".join(f"{k}: {_said(v)}" for k, v in value.items() if k != "kind" and v is not None)
        return f"{value.get('kind', '')} ({inside})".strip() if inside else str(value.get("kind", "-"))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
