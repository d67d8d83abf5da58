"""A limit on how many trials and builders run at a time, after a machine ran out of memory. Imports no
ray."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

ALONE = 4  # kills after which a trial is retried alone
CALM_SECONDS = 600.0  # without a kill, after which the limit doubles: others may have used the memory


class Pressure:
    """The first kill of a trial changes nothing: it may be chance. If the same trial is killed again, half as
    many may run at a time, then half of that, down to one, until no kill occurs for a while."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.killed: Counter[str] = Counter()  # number of kills by trial key or data set name
        self._most, self._since = math.inf, now()  # the limit after the last kill, and its time

    @property
    def most(self) -> float:
        """How many may run at the same time."""
        return self._most * 2.0 ** min(100.0, (self.now() - self._since) // CALM_SECONDS)

    def note(self, name: str, at_once: int) -> bool:
        """A process was killed while `at_once` ran, itself included. Returns whether the limit went down."""
        before, self._most, risen = self.most, self.most, self.most > self._most
        self._since = self.now()
        self.killed[name] += 1
        if self.killed[name] >= ALONE:
            self._most = 1
        elif (
            self.killed[name] > 1 or risen
        ) and at_once <= before:  # else trials above the limit are still running
            self._most = max(1, at_once // 2)
        return self._most < before
