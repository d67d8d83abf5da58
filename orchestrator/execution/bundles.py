"""Bundles: the trainings that run one after another in one Tune trial. Pure.

A training of minutes is a bundle of its own. Tune takes tens of milliseconds from one trial to the next, and
leaves slots idle if trials are shorter than the start of a process; so trainings of seconds travel together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.execution.messages import Order
from orchestrator.execution.requests import Request

BUNDLE_SECONDS = 30.0  # of expected work in a bundle
MOST = 50  # trainings in a bundle
PARTS = 2  # what is left makes at least this many bundles for each slot


@dataclass(frozen=True)
class Bundle:
    """A Tune trial: its number, its name and folder in Tune, its resources, and its trainings. `resting` maps
    the ids of machines that must not be used to the seconds that this lasted when the bundle was `made`
    (seconds since 1970)."""

    number: int
    name: str
    folder: str
    request: Request
    orders: tuple[Order, ...]
    resting: Mapping[str, float]
    made: float = field(default_factory=time.time)

    def rest(self, node: str) -> float:
        """For how many more seconds a machine must not be used. Clocks of machines may differ."""
        seconds = self.resting.get(node, 0.0)
        return min(seconds, max(0.0, self.made + seconds - time.time()))

    def __str__(self) -> str:  # Tune writes configurations into tags
        return self.name


def bundle_size(seconds: Iterable[float], slots: int) -> int:
    """How many of the next trainings travel together; `seconds` are their expected durations, in order.
    Bundles become smaller as less work is left, so that all slots end at about the same time."""
    first, work = list[float](), 0.0
    for duration in seconds:
        work += duration
        if len(first) < MOST:
            first.append(duration)
        if work >= PARTS * slots * BUNDLE_SECONDS:
            break
    left = min(BUNDLE_SECONDS, work / (PARTS * slots))
    for size, duration in enumerate(first):
        left -= duration
        if left < 0:
            return max(1, size)
    return max(1, len(first))
