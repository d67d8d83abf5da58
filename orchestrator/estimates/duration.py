"""Durations, formatted for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`under 1 s`, `42 s`, `12 min`, `3 h 12 min`, `120 h`"""
    if seconds < 1:
        return "under 1 s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 100 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 60:,.0f} h"


def hours(number: float) -> str:
    """`under 0.01`, `about 0.25`, `about 12.3`, `about 1,234`"""
    if number < 0.01:
        return "under 0.01"
    digits = 2 if number < 1 else 1 if number < 100 else 0
    return f"about {number:,.{digits}f}"
