"""The events of a running sweep that are not yet sent to MLflow. Only the key of a finished trial is kept,
because its record is in the ledger. Does not import mlflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.planning.plan import Task
from poisons import DataSpec
from trainers.families import Metrics

End = Literal["done", "stopped", "failed", "interrupted"]
MANY = 1000  # this many rows are sent at once
ELSEWHERE_SECONDS = 30.0  # how long another driver gets to send a trial that it ran


@dataclass
class Entry:
    """A trial that still runs, or has unsent data."""

    task: Task
    begun: int  # ms since 1970
    run_id: str | None = None
    known: Mapping[str, int] = field(default_factory=dict)  # the last step of each metric when it was resumed
    rows: list[tuple[int, Metrics]] = field(default_factory=list)  # time (ms since 1970), and metrics
    last: float = 0.0  # the last epoch that was received
    sent: float = 0.0  # the last epoch that was sent
    end: End | None = None
    why: str = ""
    spoilt: bool = False  # its run may differ from the record: compare them when it is done
    refusals: int = 0
    due: float = 0.0  # send it no earlier than this, by the monotonic clock


@dataclass(frozen=True)
class Parcel:
    """The data of a trial that is sent now."""

    entry: Entry
    rows: list[tuple[int, Metrics]]
    end: End | None


class Outbox:
    """A queue that the driver fills and the sending thread empties; `bell` guards it."""

    def __init__(self) -> None:
        self.bell = threading.Condition()
        self.closed = False
        self.entries: dict[str, Entry] = {}
        self.data: dict[str, DataSpec] = {}
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self._rows = 0

    def wait(self, seconds: float, *, patient: bool = False) -> None:
        """Wait so many seconds, or until the outbox is closed or holds `MANY` rows. If `patient`, rows do not
        end the wait, nor does an outbox that was closed before the call."""
        with self.bell:
            known = self.closed and patient
            self.bell.wait_for(
                lambda: (self.closed and not known) or (self._rows >= MANY and not patient), seconds
            )

    def built(self, spec: DataSpec) -> None:
        with self.bell:
            self.data[spec.name] = spec

    def started(self, task: Task) -> None:
        """A trial starts, or starts again; then its run continues."""
        with self.bell:
            entry = self.entries.get(task.key)
            if entry is None:
                self.entries[task.key] = Entry(task, _now(), spoilt=task.trained)
            else:
                entry.end, entry.spoilt = None, True

    def progress(self, task: Task, rows: list[Metrics]) -> None:
        """Add the epochs that are new; a trial that resumes from a checkpoint repeats earlier ones."""
        with self.bell:
            if (entry := self.entries.get(task.key)) is None or entry.end is not None:
                return
            when = _now()
            fresh = [(when, row) for row in rows if row["epoch"] > entry.last]
            if fresh:
                # what a worker reports can be lost with a machine or a cable; the record has all of it
                entry.spoilt = entry.spoilt or fresh[0][1]["epoch"] > entry.last + 1
                entry.rows += fresh
                entry.last = fresh[-1][1]["epoch"]
                self._rows += len(fresh)
                if self._rows >= MANY:
                    self.bell.notify_all()

    def ended(self, task: Task, end: End, why: str = "") -> None:
        """A trial ended. If it never started here, another driver ran it and may send it too."""
        with self.bell:
            if (entry := self.entries.get(task.key)) is None:
                entry = Entry(task, _now())
                if end == "done":
                    entry.due = time.monotonic() + ELSEWHERE_SECONDS
                    entry.spoilt = True
                self.entries[task.key] = entry
            entry.end, entry.why = end, why
            if end == "done":
                entry.rows = []  # the ledger has them
                self.done.add(task.key)
                self.failed.discard(task.key)
            elif end == "failed":
                self.failed.add(task.key)

    def close(self) -> None:
        """The sweep ends: trials that still run are interrupted, and no further events follow."""
        with self.bell:
            for entry in self.entries.values():
                entry.end = entry.end or "interrupted"
                entry.due = 0.0
            self.closed = True
            self.bell.notify_all()

    def due(self) -> list[str]:
        """Keys of the trials with something to send now, in order of arrival."""
        with self.bell:
            self._rows = 0
            now = time.monotonic()
            return [key for key, entry in self.entries.items() if _has_unsent(entry) and entry.due <= now]

    def take(self, key: str) -> Parcel:
        """The unsent data of a trial; it is kept until `arrived`."""
        with self.bell:
            entry = self.entries[key]
            return Parcel(entry, list(entry.rows), entry.end)

    def arrived(self, parcel: Parcel) -> None:
        """Remove the data of a parcel that was sent."""
        entry, count = parcel.entry, len(parcel.rows)
        with self.bell:
            if count:
                entry.sent = parcel.rows[-1][1]["epoch"]
                entry.rows = entry.rows[count:]
            entry.refusals = 0
            if parcel.end is not None and entry.end == parcel.end:
                del self.entries[entry.task.key]

    def drop(self, parcel: Parcel) -> None:
        """Discard a parcel's data unsent, and its trial too if that has ended."""
        with self.bell:
            parcel.entry.rows = parcel.entry.rows[len(parcel.rows) :]
            if parcel.entry.end is not None:
                self.entries.pop(parcel.entry.task.key, None)

    def lose_runs(self) -> None:
        """Forget all run ids, because the store no longer has the runs."""
        with self.bell:
            for entry in self.entries.values():
                entry.run_id, entry.spoilt = None, True


def _has_unsent(entry: Entry) -> bool:
    return entry.run_id is None or bool(entry.rows) or entry.end is not None


def _now() -> int:
    return int(time.time() * 1000)
