"""The trials of sweeps as comma-separated values, one line per trial, for pandas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

from orchestrator.planning.snapshot import Entry
from orchestrator.report.csv_table import joined
from orchestrator.report.csv_text import csv_text
from orchestrator.report.sheet import Sheet
from orchestrator.report.warning import SheetWarning
from orchestrator.storage.records import Result

FIRST, LAST = ("sweep", "key"), ("seconds", "state", "platform", "precision", "warnings", "sweep_warnings")
FIXED = frozenset((*FIRST, *LAST))


def trials_csv(*sheets: Sheet) -> str:
    """One line per trial: its sweep and key, its label on each axis, every metric of its record and its
    probes (`<probe>/<metric>`), seconds, state, numerical platform and precision, the warnings about it and
    its cell, and the warnings about the whole sweep, which are the same in all lines. Numbers are those of
    the ledger, in full precision and in the metric's own unit: an accuracy is a fraction. Missing values are
    empty.

    An axis with the name of a metric or of another column becomes `axis:<name>`; a metric with the name of
    another column becomes `metric:<name>`.
    """
    axes = _each_once(axis for sheet in sheets for entry in _entries(sheet) for axis in entry.labels)
    metrics = _each_once(
        name for sheet in sheets for record in sheet.status.results.values() for name in record["metrics"]
    )
    columns = (
        *FIRST,
        *_named(axes, "axis", FIXED | set(metrics)),
        *_named(metrics, "metric", FIXED),
        *LAST,
    )
    return csv_text(columns, (row for sheet in sheets for row in _rows(sheet, axes, metrics)))


def _rows(sheet: Sheet, axes: Sequence[str], metrics: Sequence[str]) -> Iterator[list[object]]:
    warnings = _by_trial(sheet)
    whole = joined(one for one in sheet.warnings if one.subject is None)
    for entry in _entries(sheet):
        record: Result = sheet.status.results.get(entry.key, {"metrics": {}})
        yield [
            sheet.table.name,
            entry.key,
            *(entry.labels.get(axis) for axis in axes),
            *(record["metrics"].get(metric) for metric in metrics),
            record.get("seconds"),
            _state(sheet, entry.key),
            record["platform"]["name"] if "platform" in record else None,
            record.get("precision"),
            joined(warnings.get(entry.key, ())),
            whole,
        ]


def _by_trial(sheet: Sheet) -> dict[str, list[SheetWarning]]:
    """The warnings about each trial and about its cell, by the trial's key."""
    found: dict[str, list[SheetWarning]] = {}
    for one in sheet.warnings:
        if one.key is not None:
            found.setdefault(one.key, []).append(one)
        elif one.subject is not None:
            concerned = (cell for cell in sheet.table.cells.values() if one.concerns(cell))
            for key in _each_once(key for cell in concerned for key in cell.keys):
                found.setdefault(key, []).append(one)
    return found


def _state(sheet: Sheet, key: str) -> str:
    status = sheet.status
    if key in status.results:
        return "done"
    if key in status.failures:
        return "failed"
    return "stopped" if key in status.stopped else "missing"


def _entries(sheet: Sheet) -> tuple[Entry, ...]:
    return sheet.status.snapshot.entries


def _named(names: Sequence[str], prefix: str, taken: Set[str]) -> Iterator[str]:
    """The names as columns; a name that is `taken` gets the prefix."""
    for name in names:
        while name in taken:
            name = f"{prefix}:{name}"
        yield name


def _each_once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
