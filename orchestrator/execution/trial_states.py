"""The states of the trials of a sweep; each trial is in exactly one."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class State(StrEnum):
    """What a trial waits for, or how it ended."""

    BLOCKED = "blocked"  # data sets that it needs are not built
    UNMEASURED = "unmeasured"  # its share of a GPU is not known yet
    READY = "ready"
    PAUSED = "paused"  # after a fault
    ELSEWHERE = "elsewhere"  # another driver holds its lease
    SUGGESTED = "suggested"  # to Tune: it waits for resources, or for its turn in a bundle
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    PRUNED = "pruned"


WAITING = (State.BLOCKED, State.UNMEASURED, State.READY, State.PAUSED, State.SUGGESTED)
SETTLED = (State.DONE, State.FAILED, State.PRUNED)


class TrialStates:
    """The state of each trial, by key. A trial without a state has not been begun."""

    def __init__(self) -> None:
        self._of: dict[str, State] = {}
        self._in: dict[State, dict[str, None]] = {state: {} for state in State}

    def enter(self, key: str, state: State) -> None:
        """Move a trial from its present state, if any, to `state`."""
        if (before := self._of.get(key)) is not None:
            del self._in[before][key]
        self._of[key] = state
        self._in[state][key] = None

    def keys(self, state: State) -> list[str]:
        """The trials in a state, in the order in which they entered it."""
        return list(self._in[state])

    def count(self, *states: State) -> int:
        """The number of trials in these states."""
        return sum(len(self._in[state]) for state in states)

    def all_in(self, states: Collection[State]) -> bool:
        """Whether every trial that was begun is in one of these states."""
        return self.count(*states) == len(self._of)
