"""Numbers as the page shows them: accuracies in percent, true minus signs, means with standard deviations."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction

from orchestrator.report import wording
from orchestrator.report.table import scale

NUMBER = re.compile(
    r"([+-]?\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)(?:/([1-9]\d{0,19}))?(?: ?%)?", re.IGNORECASE
)


def unit(metric: str) -> str:
    """` %` for an accuracy, else an empty string."""
    return " %" if scale(metric) == 100 else ""


def shown(value: float, metric: str, like: float | None = None) -> str:
    """`97.84` for an accuracy; any other metric with two decimals, more for a small number, none for a large
    one; or with as many decimals as `like`, if that is given."""
    return wording.number(value, metric, like=like).replace("-", "−")


def spread(values: Sequence[float], metric: str) -> str:
    """`97.84 ± 0.31`, the mean and the sample standard deviation; a single value alone; a dash for none."""
    if not values:
        return "–"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return shown(mean, metric)
    return f"{shown(mean, metric)} ± {shown(statistics.stdev(values), metric, like=mean)}"


def signed(value: float, metric: str) -> str:
    """`+0.31`, `−2.05`, `±0.00`"""
    text = shown(value, metric)
    if not re.search("[1-9]", text):
        return "±" + text.lstrip("−")
    return text if value < 0 else "+" + text


def number(label: str) -> float | None:
    """The number that a label stands for: `8/255`, `0.1` or `1 %`. None if it is not a number, or too long
    for a figure."""
    found = NUMBER.fullmatch(label.strip())
    if found is None:
        return None
    return float(Fraction(found[1]) / int(found[2] or 1))


def duration(seconds: float) -> str:
    """`42 s`, `0:12:05`, `2 days, 3:04:05`"""
    return f"{seconds:.0f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
