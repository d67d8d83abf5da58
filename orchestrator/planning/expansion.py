"""From a sweep to its trials: the product of the axes, point by point. Pure: no disk, no network, no Ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.axes import check_path, label, labelled
from orchestrator.planning.feasibility import check_networks
from orchestrator.planning.snapshot import METRIC, SUMMARY
from orchestrator.planning.spec import ReportSpec, SweepSpec, is_seed
from orchestrator.planning.sweep_file import set_path
from orchestrator.storage.trial_spec import TrialSpec
from trainers import InputError
from trainers.spelling import nearest
from trainers.yaml_text import plain_numbers, spelling


@dataclass(frozen=True)
class Point:
    """One point of the grid: the label of its value on each axis, and the trial it stands for."""

    labels: Mapping[str, str]
    trial: TrialSpec

    @property
    def name(self) -> str:
        """`data.poison=ops, seed=0`"""
        return ", ".join(f"{axis}={label}" for axis, label in self.labels.items())


def expand(sweep: SweepSpec, where: str) -> tuple[Point, ...]:
    """Every point of the grid except the skipped ones, in the order of the file, the last axis fastest.

    Raises InputError, beginning with `where`, for a point that is no valid trial, and for anything wrong with
    an axis.
    """
    axes = {axis: labelled(axis, values, where) for axis, values in sweep.grid.items()}
    _check_axes(sweep, axes, where)
    points: list[Point] = []
    checked = set()
    rules = [{axis: _wanted(value, axes[axis]) for axis, value in rule.items()} for rule in sweep.skip]
    unused = set(range(len(rules)))
    for combination in itertools.product(*(values.items() for values in axes.values())):
        labels = {axis: label for axis, (label, _) in zip(axes, combination, strict=True)}
        skipped = {i for i, rule in enumerate(rules) if all(labels[axis] in rule[axis] for axis in rule)}
        unused -= skipped
        if skipped:
            continue
        data = plain_numbers(sweep.base)
        for axis, (_, value) in zip(axes, combination, strict=True):
            set_path(data, axis, plain_numbers(value), where)
        here = f"{where} (at {', '.join(f'{axis}={name}' for axis, name in labels.items())})"
        trial = TrialSpec.parse(data, here)
        settings = tuple(name for axis, name in labels.items() if not is_seed(axis))
        if settings not in checked:  # trials that differ only in seed have the same network
            checked.add(settings)
            check_networks(trial, here)
        points.append(Point(labels, trial))
    if unused:
        rule = sweep.skip[min(unused)]
        raise InputError(f"{where}: skip.{min(unused)}: {rule} leaves nothing out; is it misspelt?")
    if not points:
        raise InputError(f"{where}: every point of the grid is skipped")
    return tuple(points)


def _check_axes(sweep: SweepSpec, axes: dict[str, dict[str, Any]], where: str) -> None:
    if not axes:
        raise InputError(
            f"{where}: grid: the grid is empty; write at least one axis, such as `seed: [0, 1, 2]`"
        )
    for one, other in itertools.permutations(axes, 2):
        if other.startswith(one + "."):
            raise InputError(
                f"{where}: grid: axis {other!r} lies inside axis {one!r}; "
                "vary one of them, or join them in one"
            )
    size = math.prod(len(values) for values in axes.values())
    if size > sweep.run.max_points:
        widths = " x ".join(f"{len(values)} ({axis})" for axis, values in axes.items())
        raise InputError(
            f"{where}: grid: {size:,} points, {widths}; the limit is {sweep.run.max_points:,}. "
            "If it is meant, raise run.max_points"
        )
    for axis, values in axes.items():
        check_path(axis, values, TrialSpec, where)
    for axis in (axis for rule in sweep.skip for axis in rule):
        if axis not in axes:
            raise InputError(f"{where}: {axis!r} is not an axis of the grid{nearest(axis, axes)}")
    _check_report_axes(sweep.report, [*axes, *([METRIC] if sweep.report.metrics else [])], where)


def _check_report_axes(report: ReportSpec, axes: list[str], where: str) -> None:
    """InputError if an axis of the report is not one of the grid, nor `metric` of a report with several."""
    sides = [side for claim in report.claims for side in (claim.lower, claim.higher, claim.where)]
    claimed = [axis for side in sides if isinstance(side, dict) for axis in side]
    for axis in (*report.rows, report.columns, *claimed):
        if axis is not None and axis not in axes:
            raise InputError(f"{where}: report: {axis!r} is not an axis of the grid{nearest(axis, axes)}")
    shown = [*report.rows, report.columns]
    if twice := [axis for axis in report.rows if shown.count(axis) > 1]:
        raise InputError(f"{where}: report: the axis {twice[0]!r} is named twice; leave one out")


def resolved_report(sweep: SweepSpec, where: str) -> ReportSpec:
    """The sweep's report with its claims and comparisons in the labels of the grid: `0.01` names the value
    `1e-2`, as in a skip rule. What matches no label stays as it is."""
    axes = {axis: labelled(axis, values, where) for axis, values in sweep.grid.items()}
    report, (_, column) = sweep.report, sweep.report_axes()

    def resolved(axis: str | None, text: str) -> str:
        known = axes.get(axis or "", {})
        return text if text in known else _label_of_number(text, known) or text

    def side(names: dict[str, str] | float) -> dict[str, str] | float:
        if not isinstance(names, dict):
            return names
        return {axis: resolved(axis, text) for axis, text in names.items()}

    claims = tuple(
        claim.model_copy(
            update={
                "lower": side(claim.lower),
                "higher": side(claim.higher),
                "where": {axis: tuple(resolved(axis, t) for t in some) for axis, some in claim.where.items()},
            }
        )
        for claim in report.claims
    )
    compare = tuple((resolved(column, one), resolved(column, other)) for one, other in report.compare)
    if same := [one for one, other in compare if one == other]:
        raise InputError(
            f"{where}: report: compare: {same[0]!r} is on both sides; write two different columns"
        )
    summary = tuple(resolved(column, one) for one in report.summary)
    known = axes.get(column or "", {})
    _check_summary(summary, known, report, where)
    return report.model_copy(update={"claims": claims, "compare": compare, "summary": summary})


def _check_summary(
    summary: tuple[str, ...], known: Mapping[str, Any], report: ReportSpec, where: str
) -> None:
    """InputError if a summary over these columns cannot be formed."""
    where = f"{where}: report: summary"
    if summary and report.metrics and report.columns == METRIC:
        raise InputError(f"{where}: it averages columns, which are metrics here: put {METRIC} into rows")
    if unknown := [one for one in summary if one not in known]:
        raise InputError(f"{where}: the table has no column {unknown[0]!r}{nearest(unknown[0], known)}")
    if len(set(summary)) < len(summary):
        raise InputError(f"{where}: a column is named twice: {', '.join(summary)}")
    if summary and (taken := [name for name in SUMMARY if name in known]):
        raise InputError(
            f"{where}: it adds the columns {' and '.join(SUMMARY)}, and the table has a column {taken[0]!r}: "
            "give that another label"
        )


def _label_of_number(text: str, axis: Mapping[str, Any]) -> str | None:
    """The first label whose value equals the number in a text; None if there is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return next((name for name, value in axis.items() if spelling(value) and value == number), None)


def _wanted(value: Any, axis: dict[str, Any]) -> set[str]:
    """The labels that a value in a skip rule matches: the one that is written like it or equals it, or any
    of a list."""
    if label(value) in axis or not isinstance(value, list):
        equal = {name for name, known in axis.items() if spelling(value) and known == value}
        return {label(value)} if label(value) in axis else equal or {label(value)}
    return {name for v in value for name in _wanted(v, axis)}
