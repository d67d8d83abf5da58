"""A store that is full, or away for a while, is waited for: what is to be kept there cost hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PAUSES = (1, 2, 4, 8, 16, 32, 60)  # seconds before the next attempt
Found = TypeVar("Found")


def patiently(act: Callable[[], Found], *, of: type[OSError] = OSError) -> Found:
    """What `act` returns once it raises no error `of` that kind any more; raises the last if it still does
    after two minutes."""
    for pause in PAUSES:
        try:
            return act()
        except of:
            time.sleep(pause)
    return act()
