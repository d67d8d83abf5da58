"""How many trials and builders may run at a time once a machine's memory did not suffice. Knows no ray."""

from __future__ import annotations

import math
from collections import Counter

ALONE = 4  # what was killed so often is tried with nothing beside it


class Pressure:
    """One kill may be bad luck. What was killed before and is killed again does not fit beside what ran with
    it: from then on half as many run at a time, and soon only one."""

    def __init__(self) -> None:
        self.most = math.inf  # trials and builders at a time
        self.killed: Counter[str] = Counter()  # how often, by the trial's key or the data set's name

    def note(self, name: str, at_once: int) -> bool:
        """A process was killed when so many ran, itself included: whether fewer may run from now on."""
        self.killed[name] += 1
        before = self.most
        if self.killed[name] >= ALONE:
            self.most = 1
        elif self.killed[name] > 1 and at_once <= self.most:  # else those that are too many have yet to end
            self.most = max(1, at_once // 2)
        return self.most < before
