"""Which points an MLflow run lacks. MLflow appends points and cannot replace them, so only missing ones are
sent."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping

from mlflow.entities import Metric

Values = Mapping[str, Mapping[int, float]]  # by metric and step
Steps = Mapping[str, int]  # the last step of each metric


def last_steps(known: Values) -> Steps:
    """The last step of each metric of a run."""
    return {metric: max(values) for metric, values in known.items() if values}


def after(points: Iterable[Metric], steps: Steps) -> list[Metric]:
    """The points that a run lacks if it has all points up to `steps`."""
    return [point for point in points if point.step > steps.get(point.key, -1)]


def lacking(points: Iterable[Metric], known: Values) -> list[Metric] | None:
    """The points that a run lacks; None if it holds points that are not among these, so that it can never
    match."""
    points = list(points)
    wanted = {(point.key, point.step): point.value for point in points}
    for metric, values in known.items():
        for step, value in values.items():
            if (metric, step) not in wanted or not _equal(value, wanted[metric, step]):
                return None
    return [point for point in points if point.step not in known.get(point.key, {})]


def _equal(stored: float, sent: float) -> bool:
    """Whether a stored number equals a sent one; MLflow clips infinity to the largest float."""
    largest = sys.float_info.max
    return stored == max(-largest, min(largest, sent)) or (math.isnan(stored) and math.isnan(sent))
