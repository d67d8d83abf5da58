"""A diary that workers write: which trial each was given, and which it trained.

A result that is written twice looks like one that was written once, and a lock may hide that two were at work.
Here every worker adds a line to a file for each trial that it is given, for each training that it begins and for
each that it ends. While it trains it holds a lock of the kernel's, which goes with the process; another that
trains the same trial meanwhile finds it taken, and says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.execution.trial import run_trial
from orchestrator.storage.records import Result
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from trainers.families import Metrics, Report


@dataclass(frozen=True)
class Recorded:
    """`run_trial` in a worker of the driver `who`, with its lines in `file`."""

    file: Path
    who: str = ""

    def __call__(self, trial: TrialSpec, store: Store, *, report: Report, **options: Any) -> Result:
        attempt = _Attempt(self, trial.key)
        with attempt.at_work():
            return run_trial(trial, store, report=attempt.observed(report), **options)


@dataclass
class _Attempt:
    """One trial given to a worker."""

    of: Recorded
    key: str
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    lock: int | None = None  # a file's descriptor, from the first epoch on

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.note("given")
        try:
            yield
        except BaseException:
            self.note("failed")
            raise
        else:
            self.note("found" if self.lock is None else "trained")
        finally:
            if self.lock is not None:
                os.close(self.lock)

    def observed(self, report: Report) -> Callable[[Metrics], None]:
        def reported(row: Metrics) -> None:
            if self.lock is None:
                self.lock = os.open(self.of.file.with_name(f"{self.key}.lock"), os.O_CREAT | os.O_RDWR)
                self.note("trains", alone=_taken(self.lock))
            report(row)

        return reported

    def note(self, what: str, **fields: Any) -> None:
        line = {"what": what, "key": self.key, "who": self.of.who, "attempt": self.name, **fields}
        with self.of.file.open("ab", buffering=0) as file:  # one write: lines do not mix
            file.write(f"{json.dumps(line)}\n".encode())


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Diary:
    """The lines of all workers, in the order in which they were written."""

    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, file: Path) -> Diary:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert lines, f"no worker wrote into {file}"
        return cls(lines)

    def times(self, what: str) -> Counter[str]:
        """How often each trial has such a line, by its key."""
        return Counter(line["key"] for line in self.lines if line["what"] == what)

    def together(self) -> list[str]:
        """Trials that two workers trained at the same time."""
        return [line["key"] for line in self.lines if not line.get("alone", True)]

    def unended(self, who: str) -> set[str]:
        """Trials that workers of a driver were given and did not end, because the workers died."""
        mine = [line for line in self.lines if line["who"] == who]
        ended = {line["attempt"] for line in mine if line["what"] in ("trained", "found", "failed")}
        return {line["key"] for line in mine if line["attempt"] not in ended}
