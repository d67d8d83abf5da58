"""The best cells that a search has found, best first. A search tries few cells, so its table is mostly empty.

Imports only light modules, so that a report starts instantly.
"""

from __future__ import annotations

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import Entry
from orchestrator.report import Cell, shown, summarised

TOP = 10


def ranking(status: SweepStatus, top: int = TOP) -> list[Cell]:
    """The best cells with a mean over their seeds, best first, each labelled with its place in the table.

    A cell with stopped, failed or missing trials is ranked after every complete cell: the mean over the
    remaining trials is too optimistic.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    snapshot = status.snapshot
    for entry in snapshot.entries:
        axes = [axis for axis in (*snapshot.row_axes, snapshot.column_axis) if axis in entry.labels]
        groups.setdefault((", ".join(f"{axis}={entry.labels[axis]}" for axis in axes), ""), []).append(entry)
    cells = [summarised(*place, entries, status) for place, entries in groups.items()]
    sign = 1 if snapshot.best == "min" else -1
    found = [(cell.seeds < cell.trials, sign * cell.mean, cell) for cell in cells if cell.mean is not None]
    return [cell for *_, cell in sorted(found, key=lambda one: one[:2])[:top]]


def best_cells(status: SweepStatus) -> list[str]:
    """The ranking of a search as lines of text; none for a grid, whose table is complete."""
    if status.snapshot.best is None or not (cells := ranking(status)):
        return []
    seeds = max(cell.trials for cell in cells)
    lines = [f"{shown(cell, seeds):>16}  {cell.row}" for cell in cells]
    return [f"best cells by {status.snapshot.metric}:", *lines]
