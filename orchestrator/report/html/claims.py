"""Verdicts on claims, and comparisons of columns, as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from orchestrator.report.html.numbers import shown, signed, suffix
from orchestrator.report.html.records import Claim, Comparison, Difference, Point, SideRecord
from orchestrator.report.table import scale
from trainers.probe_view import PERCENT, Unit

KINDS = {
    "holds": ("holds", "✓"),
    "does not hold": ("fails", "✗"),
    "not known yet": ("open", "?"),
}


class PointView(TypedDict):
    """A claim at one point."""

    kind: str
    sign: str
    where: str
    says: str
    seeds: str


class ClaimView(TypedDict):
    """A claim, its verdict, and its points."""

    kind: str
    sign: str
    verdict: str
    says: str
    why: str
    tally: str
    points: list[PointView]


class DifferenceView(TypedDict):
    """A line of a comparison; `overall` for all rows together."""

    row: str
    overall: bool
    mean: str
    interval: str
    p: str
    pairs: str


class ComparisonView(TypedDict):
    """Two columns compared; `points` if differences are of percentages."""

    title: str
    lines: list[DifferenceView]
    note: str
    points: bool


def claims_view(claims: Sequence[Claim]) -> list[ClaimView]:
    """Each claim with its verdict and the numbers at each of its points."""
    return [_claim(claim) for claim in claims]


def _claim(claim: Claim) -> ClaimView:
    kind, sign = KINDS[claim["verdict"]]
    points = [_point(point, claim["margin"]) for point in claim["points"]]
    held = sum(point["holds"] is True for point in claim["points"])
    agree, pairs = (sum(point[name] for point in claim["points"]) for name in ("agree", "pairs"))
    tally = f"{held} of {len(points)} points, " if len(points) > 1 else ""
    return {
        "kind": kind,
        "sign": sign,
        "verdict": claim["verdict"] + ("" if claim["complete"] or kind == "open" else " so far"),
        "says": claim["says"],
        "why": claim["why"] or "",
        "tally": f"{tally}{agree} of {pairs} seeds agree" if pairs else "",
        "points": points,
    }


def _point(point: Point, margin: float) -> PointView:
    sign = {True: "<", False: "not <", None: "?"}[point["holds"]]
    gap = f" + {margin:g}" if margin else ""
    lower, higher = (_side(point[name], point["unit"]) for name in ("lower", "higher"))
    kind, mark = KINDS[{True: "holds", False: "does not hold", None: "not known yet"}[point["holds"]]]
    where = ", ".join(point["at"].values())
    seeds = f"{point['agree']} of {point['pairs']} seeds" if point["pairs"] else ""
    return {
        "kind": kind,
        "sign": mark,
        "where": where,
        "says": f"{lower}{gap} {sign} {higher}",
        "seeds": seeds,
    }


def _side(side: SideRecord, unit: Unit) -> str:
    if not side["trials"] and side["mean"] is not None:
        return f"{side['mean'] * scale(unit):g}{suffix(unit)}"
    value = "–" if side["mean"] is None else shown(side["mean"], unit)
    deviation = "" if side["std"] is None else f" ± {shown(side['std'], unit, like=side['mean'])}"
    return f"{side['name']} {value}{deviation}"


def comparisons_view(comparisons: Sequence[Comparison]) -> list[ComparisonView]:
    """Each pair of columns as a table: a line per row, and one for all rows together."""
    made = list[ComparisonView]()
    for one in comparisons:
        lines = [_difference(row) for row in one["rows"]]
        lines += [_difference(one["overall"])] if one["overall"] else []
        few = max((row["pairs"] for row in one["rows"]), default=0)
        least = 2 ** (1 - few) if few else 1
        note = f"With {few} pairs, p cannot be below {least:g}." if few and least > 0.05 else ""
        points = any(row["unit"] == PERCENT for row in one["rows"])
        title = f"{one['second']} minus {one['first']}"
        made.append({"title": title, "lines": lines, "note": note, "points": points})
    return made


def _difference(one: Difference) -> DifferenceView:
    unit = one["unit"]
    ends = one["interval"]
    what = "row" if one["row"] is None else "seed"
    return {
        "row": "all rows" if one["row"] is None else one["row"],
        "overall": one["row"] is None,
        "mean": "–" if one["mean"] is None else signed(one["mean"], unit),
        "interval": f"{signed(ends[0], unit)} to {signed(ends[1], unit)}" if ends else "–",
        "p": "–" if one["p"] is None else f"{one['p']:.2g}",
        "pairs": f"{one['pairs']} {what}{'' if one['pairs'] == 1 else 's'}",
    }
