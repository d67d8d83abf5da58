"""The findings of each probe in a table of their own: a row for each cell of the sweep's table, a column for
each number, the sweep's own metric first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import METRIC, Entry
from orchestrator.report.table import Cell, Table, place_of, summarised


def probe_tables(status: SweepStatus) -> tuple[Table, ...]:
    """A table for each probe, without cells that have no result yet; no tables if the report names its
    metrics itself."""
    snapshot = status.snapshot
    if snapshot.report.get("metrics"):
        return ()
    axes = [axis for axis in (*snapshot.row_axes, snapshot.column_axis) if axis not in (None, METRIC)]
    lines: dict[str, list[Entry]] = {}
    for entry in snapshot.entries:
        name = ", ".join(entry.labels[axis] for axis in axes if axis is not None) or snapshot.name
        lines.setdefault(name, []).append(entry)
    begun = {n: entries for n, entries in lines.items() if any(e.key in status.results for e in entries)}
    shown = tuple(axis for axis in axes if axis is not None)
    return tuple(_table(status, probe, shown, begun) for probe in snapshot.probes if begun)


def _table(
    status: SweepStatus, probe: str, axes: tuple[str, ...], lines: Mapping[str, Sequence[Entry]]
) -> Table:
    snapshot = status.snapshot
    found = [metric for metric in _metrics(status, probe) if metric != snapshot.metric]
    metrics = {snapshot.metric: snapshot.metric} | {
        metric.removeprefix(f"{probe}/"): metric for metric in found
    }
    cells: dict[tuple[str, str], Cell] = {}
    for line, entries in lines.items():
        for label, metric in metrics.items():
            place = place_of(snapshot, entries[0].labels, metric)
            cells[line, label] = summarised(*place, list(entries), status, metric)
    return Table(
        name=snapshot.name,
        question=f"What the probe {probe} found, beside {snapshot.metric}.",
        metric=snapshot.metric,
        row_axes=axes,
        column_axis=METRIC,
        rows=tuple(lines),
        columns=tuple(metrics),
        cells=cells,
        metrics=metrics,
        probe=probe,
    )


def _metrics(status: SweepStatus, probe: str) -> list[str]:
    """The metrics that the probe always reports, then those that it reported for some trials."""
    begin = f"{probe}/"
    found = (name for record in status.results.values() for name in record.get("metrics", ()))
    names = (*status.snapshot.probes[probe]["metrics"], *(name for name in found if name.startswith(begin)))
    return list(dict.fromkeys(names))
