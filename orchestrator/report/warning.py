"""The warnings of a sweep's report: one list, which every format renders.

To add a kind of warning, write a function here that yields `SheetWarning`s and call it in `sheet_warnings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import Entry, lack
from orchestrator.report.platforms import mixed_platforms
from orchestrator.report.sheet_warning import SheetWarning as SheetWarning
from orchestrator.report.table import Table

MOST = 8  # at most so many warnings of a kind, and trials of a warning, are listed


def sheet_warnings(status: SweepStatus, table: Table, notes: Sequence[str]) -> tuple[SheetWarning, ...]:
    """All warnings of a sweep, in display order."""
    return (
        *_failed(status),
        *_stopped(status),
        *_missing(status),
        *_without_a_value(status, table),
        *_doubts(status),
        *mixed_platforms(status, table),
        *(SheetWarning("note", _one_line(note)) for note in notes),
    )


def warning_lines(warnings: Iterable[SheetWarning]) -> list[str]:
    """Warnings as lines of text. Equal warnings share a line, which names their trials or cells. At most
    `MOST` lines of each kind are shown, followed by the number of the others."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for one in warnings:
        named = subjects.setdefault((one.kind, one.text), [])
        named += [one.subject] if one.subject is not None else []
    by_kind: dict[str, list[str]] = {}
    for (kind, text), named in subjects.items():
        by_kind.setdefault(kind, []).append(_line(kind, text, named))
    shown: list[str] = []
    for kind, found in by_kind.items():
        more = len(found) - MOST
        shown += found[:MOST] + ([f"{kind}: ... and {more} more"] if more > 0 else [])
    return shown


def _line(kind: str, text: str, subjects: Sequence[str]) -> str:
    """`doubt: data.poison=ops, seed=1: gradients may be masked`"""
    if len(subjects) < 2:
        return ": ".join([kind, *subjects, text])
    more = len(subjects) - MOST
    named = "; ".join(subjects[:MOST]) + (f"; ... and {more} more" if more > 0 else "")
    return f"{kind}: {text} ({len(subjects)} times: {named})"


def _failed(status: SweepStatus) -> Iterator[SheetWarning]:
    for entry, record in status.failed():
        first = str(record.get("error", "")).strip().partition("\n")[0]
        fault = f"{record['kind']}: " if record.get("kind") else ""
        where = "in a probe: " if entry.key in status.results else ""
        yield _of_trial("failed", entry, f"{where}{fault}{first}")


def _stopped(status: SweepStatus) -> Iterator[SheetWarning]:
    for entry in status.snapshot.entries:
        if entry.key in status.stopped:
            yield _of_trial("stopped", entry, "ended early by the sweep's scheduler, and in no mean")


def _missing(status: SweepStatus) -> Iterator[SheetWarning]:
    if status.missing:
        yield SheetWarning("missing", f"{status.missing} of {status.total} trials have not run yet")
    if status.lacking:
        probes = ", ".join(lack(count, name) for name, count in status.lacking_by_probe.items())
        yield SheetWarning("missing", f"{len(status.results)} of {status.total} trials done, {probes}")
    for entry in status.snapshot.entries:
        if entry.key in status.lacking:
            yield _of_trial("missing", entry, f"done, but lacks {' and '.join(status.lacking[entry.key])}")


def _without_a_value(status: SweepStatus, table: Table) -> Iterator[SheetWarning]:
    """Finished trials that lack a metric of the table."""
    entries = {entry.key: entry for entry in status.snapshot.entries}
    for cell in table.of_trials.values():
        for absent in cell.absent:
            if absent.why == "no value":
                yield _of_trial("missing", entries[absent.key], f"it finished without {cell.metric}")


def _doubts(status: SweepStatus) -> Iterator[SheetWarning]:
    """The warnings that a finished trial's evaluation or checkpoints raised."""
    for entry, text in status.doubts():
        yield _of_trial("doubt", entry, text)


def _of_trial(kind: str, entry: Entry, text: str) -> SheetWarning:
    return SheetWarning(kind, _one_line(text), key=entry.key, name=_one_line(entry.name))


def _one_line(text: str) -> str:
    return " ".join(text.split())
