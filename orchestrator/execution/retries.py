"""The rule by which failed work, a trial or the build of a data set, is tried again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from orchestrator.execution.faults import Fault
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.backoff import pause


@dataclass(frozen=True)
class Retry:
    """How failed work is tried again: after `wait` seconds."""

    wait: float

    def __str__(self) -> str:
        return f"in {self.wait:.0f} s" if self.wait else "once more"


class Retries:
    """Counts the faults of each piece of work, by key. After a machine fault it is tried again up to
    `run.machine_retries` times since it last made progress, with growing pauses; after a fault of its own up
    to `run.retries` times; after a `config` fault never."""

    def __init__(self, run: RunSpec) -> None:
        self.run = run
        self._of_machine: Counter[str] = Counter()  # since the work last made progress
        self._own: Counter[str] = Counter()

    def after(self, key: str, fault: Fault) -> Retry | None:
        """Count a fault. None if the work is given up."""
        if fault.kind == "config":
            return None
        if fault.kind == "machine":
            self._of_machine[key] += 1
            faults = self._of_machine[key]
            return Retry(pause(faults)) if faults <= self.run.machine_retries else None
        self._own[key] += 1
        return Retry(0.0) if self._own[key] <= self.run.retries else None

    def progressed(self, key: str) -> None:
        """The work got further than ever before: earlier machine faults no longer count."""
        self._of_machine.pop(key, None)

    def faults(self, key: str) -> int:
        """How many faults of this work count."""
        return self._of_machine[key] + self._own[key]
