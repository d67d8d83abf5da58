"""How many trials and builders may run at a time once a machine's memory did not suffice. Knows no ray."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

ALONE = 4  # what was killed so often is tried with nothing beside it
CALM_SECONDS = 600.0  # without a kill, after which twice as many may run: something else had the memory


class Pressure:
    """One kill may be bad luck. What was killed before and is killed again does not fit beside what ran with
    it: from then on half as many run at a time, and soon only one, until there was no kill for a while."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.killed: Counter[str] = Counter()  # how often, by the trial's key or the data set's name
        self._most, self._since = math.inf, now()  # as many as were allowed after the last kill, and when

    @property
    def most(self) -> float:
        """How many may run at a time."""
        return self._most * 2.0 ** min(100.0, (self.now() - self._since) // CALM_SECONDS)

    def note(self, name: str, at_once: int) -> bool:
        """A process was killed when so many ran, itself included: whether fewer may run from now on."""
        before, self._most, risen = self.most, self.most, self.most > self._most
        self._since = self.now()
        self.killed[name] += 1
        if self.killed[name] >= ALONE:
            self._most = 1
        elif (self.killed[name] > 1 or risen) and at_once <= before:  # else those too many have yet to end
            self._most = max(1, at_once // 2)
        return self._most < before
