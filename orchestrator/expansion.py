"""From a sweep to its trials: the product of the axes, point by point. Pure: touches no disk, no network,
no ray."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.table import METRIC
from orchestrator.spec import ReportSpec, SweepSpec, TrialSpec
from orchestrator.sweep_file import set_path
from trainers import InputError
from trainers.spec import nearest


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
    """Every point of the grid but the skipped ones, in the order of the file, the last axis fastest.

    Raises InputError, beginning with `where`, for a point that is no trial and everything wrong with an axis.
    """
    axes = {axis: _labelled(axis, values, where) for axis, values in sweep.grid.items()}
    _check_axes(sweep, axes, where)
    points: list[Point] = []
    rules = [{axis: _wanted(value, axes[axis]) for axis, value in rule.items()} for rule in sweep.skip]
    unused = set(range(len(rules)))
    for combination in itertools.product(*(values.items() for values in axes.values())):
        labels = {axis: label for axis, (label, _) in zip(axes, combination, strict=True)}
        skipped = {i for i, rule in enumerate(rules) if all(labels[axis] in rule[axis] for axis in rule)}
        unused -= skipped
        if skipped:
            continue
        data = copy.deepcopy(sweep.base)
        for axis, (_, value) in zip(axes, combination, strict=True):
            set_path(data, axis, copy.deepcopy(value), where)
        point = ", ".join(f"{axis}={label}" for axis, label in labels.items())
        points.append(Point(labels, TrialSpec.parse(data, f"{where} (at {point})")))
    if unused:
        rule = sweep.skip[min(unused)]
        raise InputError(f"{where}: skip.{min(unused)}: {rule} leaves nothing out; is it misspelt?")
    if not points:
        raise InputError(f"{where}: every point of the grid is skipped")
    return tuple(points)


def label(value: Any) -> str:
    """How an axis value is written in tables: `em+ops`, `resnet18 width=16`, `8/255`, `0`."""
    if isinstance(value, list):
        return "+".join(label(v) for v in value) or "none"
    if isinstance(value, dict):
        rest = [f"{name}={label(v)}" for name, v in value.items() if name != "kind"]
        return " ".join([*([str(value["kind"])] if "kind" in value else []), *rest])
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _labelled(axis: str, values: Any, where: str) -> dict[str, Any]:
    """An axis is a list of values, or a mapping from labels to values."""
    if isinstance(values, dict):
        named = {str(name): value for name, value in values.items()}
    elif isinstance(values, list):
        named = {}
        for value in values:
            if (text := label(value)) in named:
                raise InputError(
                    f"{where}: grid: {axis}: {text!r} stands twice; give each value its own label"
                )
            named[text] = value
    else:
        raise InputError(
            f"{where}: grid: {axis}: an axis is a list of values, found {values!r}; write [{values}]"
        )
    if not named:
        raise InputError(f"{where}: grid: {axis}: this axis has no values, so the sweep has no trials")
    return named


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
    for axis in (axis for rule in sweep.skip for axis in rule):
        if axis not in axes:
            raise InputError(f"{where}: {axis!r} is not an axis of the grid{nearest(axis, axes)}")
    _check_report_axes(sweep.report, [*axes, *([METRIC] if sweep.report.metrics else [])], where)


def _check_report_axes(report: ReportSpec, axes: list[str], where: str) -> None:
    """What a report calls an axis is one: of the grid, or `metric` if it has several."""
    sides = [side for claim in report.claims for side in (claim.lower, claim.higher, claim.where)]
    claimed = [axis for side in sides if isinstance(side, dict) for axis in side]
    for axis in (*report.rows, report.columns, *claimed):
        if axis is not None and axis not in axes:
            raise InputError(f"{where}: report: {axis!r} is not an axis of the grid{nearest(axis, axes)}")


def _wanted(value: Any, axis: dict[str, Any]) -> set[str]:
    """The labels that a value in a skip rule names: the one that is written so, or any of a list."""
    if label(value) in axis or not isinstance(value, list):
        return {label(value)}
    return {label(v) for v in value}
