"""Verdicts on the claims of a sweep. A claim states that one side is lower than the other at each point; its
verdict is whether that holds, with the numbers of both sides and how many seeds agree. Numbers are in the
metric's own unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import METRIC
from orchestrator.report.reference import known
from orchestrator.report.table import Cell, Table, axes_of, scale
from trainers.probe_view import Unit

Holds = Literal["holds", "does not hold", "not known yet"]
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Side:
    """One side of a claim at a point: a cell, or a number from the sweep file."""

    name: str
    mean: float | None
    std: float | None = None
    seeds: int = 0
    trials: int = 0


@dataclass(frozen=True, kw_only=True)
class Point:
    """A claim at one point of the axes that it ranges over. The claim holds for `agree` of `pairs` seeds."""

    at: Labels
    lower: Side
    higher: Side
    metric: str
    unit: Unit
    holds: bool | None
    agree: int
    pairs: int

    @property
    def complete(self) -> bool:
        """Whether none of its trials is missing."""
        return all(side.seeds == side.trials for side in (self.lower, self.higher))


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim. `why` is the reason if it cannot be evaluated, because the sweep lacks what the
    claim names."""

    says: str
    verdict: Holds
    margin: float  # in the displayed unit
    points: tuple[Point, ...] = field(default_factory=tuple)
    why: str | None = None

    @property
    def complete(self) -> bool:
        """Whether none of its trials is missing."""
        return bool(self.points) and all(point.complete for point in self.points)


def verdicts(status: SweepStatus, table: Table) -> tuple[Verdict, ...]:
    """The verdicts on the claims of a sweep, in their order."""
    claims = status.snapshot.report.get("claims") or ()
    return tuple(_verdict(claim, _Grid(status, table)) for claim in claims)


class _Grid:
    """The cells of a table by the labels of their axes."""

    def __init__(self, status: SweepStatus, table: Table) -> None:
        rows, column = axes_of(status.snapshot)
        metrics = table.metrics or {table.metric: table.metric}
        self.metrics = metrics
        self.axes = [axis for axis in (*rows, column) if axis is not None]
        names = {metric: label for label, metric in metrics.items()}
        self.cells = {self._place({**c.labels, METRIC: names[c.metric]}): c for c in table.of_trials.values()}
        places = list(self.cells)
        self.labels = {a: list(dict.fromkeys(p[i] for p in places)) for i, a in enumerate(self.axes)}

    def _place(self, labels: Labels) -> tuple[str, ...]:
        return tuple(labels.get(axis, "") for axis in self.axes)

    def cell(self, labels: Labels) -> Cell | None:
        return self.cells.get(self._place(labels))

    def points(self, named: set[str], where: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
        axes = [axis for axis in self.axes if axis not in named]
        for labels in product(*(where.get(axis) or self.labels[axis] for axis in axes)):
            yield dict(zip(axes, labels, strict=True))


def _verdict(claim: Mapping[str, Any], grid: _Grid) -> Verdict:
    says, margin = claim["says"], float(claim.get("margin", 0))
    why = _problem(claim, grid)
    if why is not None:
        return Verdict(says, "not known yet", margin, why=why)
    named = {axis for side in _sides(claim) for axis in side}
    found = (_point(claim, at, grid, margin) for at in grid.points(named, claim.get("where") or {}))
    points = tuple(point for point in found if point is not None)
    held = {point.holds for point in points}
    if not points:
        return Verdict(says, "not known yet", margin, why="the sweep has no two cells that it compares")
    verdict: Holds = "does not hold" if False in held else "not known yet" if None in held else "holds"
    return Verdict(says, verdict, margin, points)


def _sides(claim: Mapping[str, Any]) -> list[Labels]:
    """The sides that name cells."""
    return [claim[name] for name in ("lower", "higher") if isinstance(claim[name], Mapping)]


def _problem(claim: Mapping[str, Any], grid: _Grid) -> str | None:
    """What is wrong with the claim, such as an axis that the sweep lacks; None if nothing is."""
    sides, where = _sides(claim), claim.get("where") or {}
    named = [*((a, label) for side in sides for a, label in side.items())]
    named += [(axis, label) for axis, labels in where.items() for label in labels]
    for axis, label in named:
        if axis not in grid.labels:
            return f"no axis {axis!r}; {known('axis', axis, grid.labels)}"
        if label not in grid.labels[axis]:
            return f"no {axis}={label}; {known('label', label, grid.labels[axis])}"
    if len(sides) == 2 and (odd := set(sides[0]) ^ set(sides[1])):
        return f"lower and higher must name the same axes; only one of them names {', '.join(sorted(odd))}"
    if twice := {axis for axis, _ in named if axis in where and any(axis in side for side in sides)}:
        return f"where names {', '.join(sorted(twice))}, which lower or higher names too"
    return None if sides else "lower and higher are both numbers; let one name a cell"


def _point(claim: Mapping[str, Any], at: Labels, grid: _Grid, margin: float) -> Point | None:
    """The claim at one point; None where the sweep leaves a cell out."""
    chosen = [claim[name] for name in ("lower", "higher")]
    cells = [grid.cell({**at, **side}) if isinstance(side, Mapping) else None for side in chosen]
    if any(cell is None and isinstance(side, Mapping) for cell, side in zip(cells, chosen, strict=True)):
        return None
    metric, unit = next((cell.metric, cell.unit) for cell in cells if cell is not None)
    low, high = (_side(side, cell, unit) for side, cell in zip(chosen, cells, strict=True))
    holds, pairs, gap = None, list[tuple[float, float]](), margin / scale(unit)
    if low.mean is not None and high.mean is not None:
        holds, pairs = _less(low.mean + gap, high.mean), _pairs(cells[0], cells[1], low.mean, high.mean)
    return Point(
        at=at,
        lower=low,
        higher=high,
        metric=metric,
        unit=unit,
        holds=holds,
        agree=sum(_less(a + gap, b) for a, b in pairs),
        pairs=len(pairs),
    )


def _less(a: float, b: float) -> bool:
    """Whether a is below b by more than sums of decimal fractions err."""
    return a < b - 1e-9 * max(1.0, abs(b))


def _side(side: Labels | float, cell: Cell | None, unit: Unit) -> Side:
    if cell is None:
        assert not isinstance(side, Mapping)
        return Side("", float(side) / scale(unit))
    assert isinstance(side, Mapping)
    return Side(", ".join(side.values()), cell.mean, cell.std, cell.seeds, cell.trials)


def _pairs(low: Cell | None, high: Cell | None, number: float, other: float) -> list[tuple[float, float]]:
    """The values of both sides, paired by seed; a number is paired with every seed."""
    if low is None or high is None:
        cell = low or high
        assert cell is not None
        return [(number, value) if low is None else (value, other) for value in cell.values.values()]
    return [(low.values[seed], high.values[seed]) for seed in low.values if seed in high.values]
