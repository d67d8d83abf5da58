"""Retries of storage operations: results that cost hours are not lost because storage is full or
unreachable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PAUSES = (1, 2, 4, 8, 16, 32, 60)  # seconds before the next attempt
Found = TypeVar("Found")


def patiently(act: Callable[[], Found], *, of: type[OSError] = OSError) -> Found:
    """The result of `act`, which is retried while it raises an error `of` that kind. Raises the last error
    after two minutes."""
    for pause in PAUSES:
        try:
            return act()
        except of:
            time.sleep(pause)
    return act()
