"""Pauses between attempts, and retries of storage operations: results that cost hours are not lost because
storage is full or unreachable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 8  # within two minutes
Found = TypeVar("Found")


def pause(faults: int) -> float:
    """Seconds before the next attempt after this many faults: 1, 2, 4, ... 60."""
    return float(min(60, 2 ** (faults - 1)))


def patiently(act: Callable[[], Found], *, of: type[OSError] = OSError) -> Found:
    """The result of `act`, which is retried while it raises an error `of` that kind. Raises the last error
    after two minutes."""
    for faults in range(1, ATTEMPTS):
        try:
            return act()
        except of:
            time.sleep(pause(faults))
    return act()
