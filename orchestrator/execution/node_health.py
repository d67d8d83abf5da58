"""The health of a cluster's machines. Without it a broken machine would fail trial after trial, since it is
always the first to be free.

A trial is not retried on a machine where it failed while there are others. A machine where several different
trials failed in a row is not used for a while, and for longer the next time. Imports no ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

ROW = 3  # different trials that fail in a row before the machine is blamed
REST_SECONDS, LONGEST_REST = 10.0, 120.0
AVOID_SECONDS = 600.0  # how long a trial avoids a machine where it failed


@dataclass
class Health:
    """What is known about one machine."""

    row: set[str] = field(default_factory=set)  # keys of trials that failed since the last success
    rest: float = 0.0  # length of its last pause, in seconds
    until: float = 0.0  # when that pause ends
    failed: dict[str, float] = field(default_factory=dict)  # when each trial last failed here


class Nodes:
    """The machines by their ids. Only faults of kind `machine` count."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._known: dict[str, Health] = {}

    def failed(self, node: str, key: str) -> None:
        """A trial failed there with a machine fault."""
        health, now = self._known.setdefault(node, Health()), self.now()
        health.failed[key] = now
        health.row.add(key)
        if len(health.row) >= ROW and now >= health.until:
            health.rest = min(LONGEST_REST, 2 * health.rest or REST_SECONDS)
            health.until = now + health.rest

    def worked(self, node: str) -> None:
        """A trial succeeded there."""
        if (health := self._known.get(node)) is not None:
            health.row, health.rest, health.until = set(), 0.0, 0.0

    @property
    def resting(self) -> dict[str, float]:
        """The machines that are resting, and for how many more seconds."""
        left = {node: health.until - self.now() for node, health in self._known.items()}
        return {node: seconds for node, seconds in left.items() if seconds > 0}

    @property
    def failures(self) -> set[str]:
        """Keys of the trials that failed recently on some machine."""
        return {key for node in self._known for key in self._failed_lately(node)}

    def avoided(self, key: str, nodes: Collection[str]) -> frozenset[str]:
        """The machines where a trial failed recently; none if it failed on all of the `nodes`."""
        bad = frozenset(node for node in self._known if key in self._failed_lately(node))
        return bad if set(nodes) - bad else frozenset()

    def _failed_lately(self, node: str) -> set[str]:
        health, since = self._known[node], self.now() - AVOID_SECONDS
        for key in [key for key, when in health.failed.items() if when < since]:
            del health.failed[key]
        return set(health.failed)
