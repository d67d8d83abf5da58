"""The colours of a matrix: from one for chance to another for the highest mean."""

from __future__ import annotations

BAD, GOOD = (244, 214, 208), (176, 219, 196)  # RGB; black text is readable on either
Ends = tuple[float, float]


def shade(mean: float | None, ends: Ends | None) -> float | None:
    """Where a mean lies between the ends, in [0, 1]; None if there is no mean, or a table without colours."""
    if mean is None or ends is None:
        return None
    low, high = ends
    return max(0.0, min(1.0, (mean - low) / (high - low))) if high > low else 0.0


def mixed(share: float) -> str:
    """The colour of a shade as six hexadecimal digits."""
    return "".join(f"{round(bad + share * (good - bad)):02X}" for bad, good in zip(BAD, GOOD, strict=True))
