"""Numbers as the page shows them: shares in percent, true minus signs, means with standard deviations."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction

from orchestrator.report import wording
from trainers.probe_view import Unit

NUMBER = re.compile(
    r"([+-]?\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,2})?)(?:/([1-9]\d{0,19}))?(?: ?%)?", re.IGNORECASE
)


def suffix(unit: Unit) -> str:
    """What follows a number in this unit: ` %`; nothing for a number without a unit."""
    return f" {unit}" if unit else ""


def shown(value: float, unit: Unit, like: float | None = None) -> str:
    """`97.84` for a share; a number in any other unit with two decimals, more for a small number, none for a
    large one; or with as many decimals as `like`, if that is given. Without the unit."""
    return wording.number(value, unit, like=like).replace("-", "−")


def spread(values: Sequence[float], unit: Unit) -> str:
    """`97.84 ± 0.31`, the mean and the sample standard deviation; a single value alone; a dash for none."""
    if not values:
        return "–"
    mean = statistics.fmean(values)
    if len(values) == 1:
        return shown(mean, unit)
    return f"{shown(mean, unit)} ± {shown(statistics.stdev(values), unit, like=mean)}"


def signed(value: float, unit: Unit) -> str:
    """`+0.31`, `−2.05`, `±0.00`"""
    text = shown(value, unit)
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
