"""The cells of a grid: its points, grouped by every axis but seeds. A search tries whole cells.

Pure: touches no disk; random draws depend only on the sweep's name and labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from orchestrator.planning.expansion import Point
from orchestrator.planning.spec import SweepSpec, is_seed
from orchestrator.planning.trial_budget import Quota
from orchestrator.storage.trial_spec import TrialSpec
from trainers.spec import flatten, identity

Place = tuple[str, ...]


def place(labels: Mapping[str, str]) -> Place:
    """The cell of a point: its labels on all axes but seeds."""
    return tuple(label for axis, label in labels.items() if not is_seed(axis))


def labels_of(point: Point) -> dict[str, str]:
    """The labels of a point's cell, by axis."""
    return {axis: label for axis, label in point.labels.items() if not is_seed(axis)}


def drawn(sweep: SweepSpec, points: tuple[Point, ...]) -> tuple[Point, ...]:
    """The points that the sweep may run, in their order: for `search: random` those of `num_samples` cells.

    The draw orders cells independently: a larger sample contains a smaller one, and neither more seeds nor
    more values on an axis change the order of the existing cells.
    """
    if sweep.run.search != "random":
        return points
    cells = {place(point.labels): labels_of(point) for point in points}
    order = sorted(cells, key=lambda cell: digest([sweep.name, cells[cell]]))
    chosen = set(order[: sweep.run.num_samples])
    return tuple(point for point in points if place(point.labels) in chosen)


def quota(sweep: SweepSpec, points: Mapping[str, Point]) -> Quota | None:
    """The limit of a sweep whose search tries only some cells of these points; None if all are run. Its
    key stays the same as long as the cells do, whatever their seeds."""
    if sweep.run.search != "optuna":
        return None
    trials = {place(point.labels): point.trial for point in points.values()}  # one trial per cell
    asked = sorted(map(content, trials.values()))
    search = digest([sweep.name, sweep.report.metric, sweep.run.mode, asked])
    cells = {key: digest(labels_of(point)) for key, point in points.items()}
    return Quota(search, sweep.run.num_samples or len(trials), cells)


def content(trial: TrialSpec) -> str:
    """What identifies a trial apart from its seeds: equal for the trials of one cell, different for
    others."""
    leaves = flatten(identity(trial))
    return digest({path: leaf for path, leaf in leaves.items() if not is_seed(path)})


def digest(value: object) -> str:
    """16 hexadecimal digits that name plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
