"""The text below a table, line by line: comparisons of columns, and verdicts on claims."""

from __future__ import annotations

from typing import TypedDict

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.report.claims import Point, Side, Verdict
from orchestrator.report.comparison import Comparison, Difference
from orchestrator.report.statistics import smallest_p
from orchestrator.report.table import scale
from orchestrator.report.wording import number, spread
from trainers.probe_view import PERCENT, Unit

MOST = 8  # points of a claim that hold and are listed one by one


def comparison(found: Comparison) -> list[str]:
    """A heading, a line per row, and one over all rows."""
    differences = [*found.rows, *([found.overall] if found.overall else [])]
    few = max((one.pairs for one in found.rows), default=0)
    if not few:
        return [f"{found.second} minus {found.first}: no seed has both yet"]
    lines = [f"{found.second} minus {found.first}, each row by itself:"]
    lines += [f"  {one.row if one.row is not None else 'over rows'}: {change(one)}" for one in differences]
    if smallest_p(few) > 0.05:
        lines.append(f"  with {few} pairs, p cannot be below {smallest_p(few):g}")
    return lines


def change(one: Difference) -> str:
    """`-3.10, 95 % from -4.20 to -2.00, p = 0.25 (3 pairs)`"""
    if one.mean is None:
        return "no seed has both"
    points = " points" if one.unit == PERCENT else ""
    parts = [number(one.mean, one.unit, signed=True) + points]
    if one.interval is not None:
        low, high = (number(end, one.unit, signed=True) for end in one.interval)
        parts.append(f"95 % from {low} to {high}")
    parts.append(f"p = {one.p:.2g}")
    what = "row" if one.row is None else "pair"
    return f"{', '.join(parts)} ({one.pairs} {what}{'' if one.pairs == 1 else 's'})"


def claim(found: Verdict) -> list[str]:
    """`holds: one pixel beats noise (6 of 6 points, 18 of 18 seeds)`, then its points; those that do not
    hold come first."""
    if found.why is not None:
        return [f"{found.verdict}: {found.says} ({found.why})"]
    held, seeds = [point for point in found.points if point.holds], sum(p.pairs for p in found.points)
    so_far = "" if found.complete or found.verdict == "not known yet" else " so far"
    tally = [f"{len(held)} of {len(found.points)} points"] if len(found.points) > 1 else []
    tally += [f"{sum(p.agree for p in found.points)} of {seeds} seeds"] if seeds else []
    lines = [f"{found.verdict}{so_far}: {found.says}" + (f" ({', '.join(tally)})" if tally else "")]
    lines += [f"  {at_point(p, found.margin)}" for p in found.points if not p.holds]
    lines += [f"  {at_point(p, found.margin)}" for p in held[:MOST]]
    return [*lines, *([f"  ... and {len(held) - MOST} more that hold"] if len(held) > MOST else [])]


def at_point(point: Point, margin: float = 0.0) -> str:
    """`LeNet-5: ops 22.19 ± 0.31 (3) < em 26.98 ± 0.20 (3), 3 of 3 seeds agree`"""
    where = f"{', '.join(point.at.values())}: " if point.at else ""
    sign = {True: "<", False: "not <", None: "?"}[point.holds]
    gap = f" + {margin:g}" if margin else ""
    sides = f"{_side(point.lower, point.unit)}{gap} {sign} {_side(point.higher, point.unit)}"
    return f"{where}{sides}" + (f", {point.agree} of {point.pairs} seeds agree" if point.pairs else "")


def _side(side: Side, unit: Unit) -> str:
    if not side.trials:
        assert side.mean is not None
        return f"{side.mean * scale(unit):g}"
    value = "-" if side.mean is None else spread(side.mean, side.std, unit)
    count = side.seeds if side.seeds == side.trials else f"{side.seeds} of {side.trials}"
    return f"{side.name} {value} ({count})"


class Counts(TypedDict):
    """How many trials there are, how many are done, failed, stopped and missing, and how many of the finished
    ones lack each probe."""

    trials: int
    done: int
    failed: int
    stopped: int
    missing: int
    lacking: dict[str, int]


def counts(status: SweepStatus) -> Counts:
    """The progress of a sweep, in numbers."""
    return {
        "trials": status.total,
        "done": len(status.results),
        "failed": len(status.failures.keys() - status.results.keys()),
        "stopped": len(status.stopped),
        "missing": status.missing,
        "lacking": status.lacking_by_probe,
    }
