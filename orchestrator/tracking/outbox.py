"""What MLflow has yet to hear of a running sweep. Of a trial that is done only its key is kept: its record is
in the ledger. Knows no mlflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.planning.plan import Task
from poisons import DataSpec
from trainers.loop import Metrics

End = Literal["done", "stopped", "failed", "interrupted"]
MANY = 1000  # rows that are not left waiting
ELSEWHERE_SECONDS = 30.0  # in which another driver will have sent what it ran


@dataclass
class Entry:
    """A trial of which something is unsent, or that still runs."""

    task: Task
    begun: int  # ms since 1970
    run_id: str | None = None
    known: Mapping[str, int] = field(default_factory=dict)  # the last step of each metric when it was resumed
    rows: list[tuple[int, Metrics]] = field(default_factory=list)  # when (ms since 1970), and what
    seen: float = 0.0  # the last epoch that was heard of
    sent: float = 0.0  # and that was sent
    end: End | None = None
    why: str = ""
    spoilt: bool = False  # its run may not be what the record is: they are compared when it is done
    refusals: int = 0
    due: float = 0.0  # not to be sent earlier, by the monotonic clock


@dataclass(frozen=True)
class Parcel:
    """What is to be sent of a trial now."""

    entry: Entry
    rows: list[tuple[int, Metrics]]
    end: End | None


class Outbox:
    """Filled by the driver, emptied by the thread that sends; `bell` guards it."""

    def __init__(self) -> None:
        self.bell = threading.Condition()
        self.closed = False
        self.entries: dict[str, Entry] = {}
        self.data: dict[str, DataSpec] = {}
        self.done: set[str] = set()
        self.failed: set[str] = set()
        self._rows = 0

    def wait(self, seconds: float, *, patient: bool = False) -> None:
        """Until then, or until it is closed, or much is there. A patient one knows that it is closed, or that
        much is there."""
        with self.bell:
            known = self.closed and patient
            self.bell.wait_for(
                lambda: (self.closed and not known) or (self._rows >= MANY and not patient), seconds
            )

    def built(self, spec: DataSpec) -> None:
        with self.bell:
            self.data[spec.name] = spec

    def started(self, task: Task) -> None:
        """A trial begins, or begins again: its run then goes on, until it is done."""
        with self.bell:
            entry = self.entries.get(task.key)
            if entry is None:
                self.entries[task.key] = Entry(task, _now(), spoilt=task.trained)
            else:
                entry.end, entry.spoilt = None, True

    def progress(self, task: Task, rows: list[Metrics]) -> None:
        """Epochs that were not heard of before; a trial that goes on from a checkpoint tells all again."""
        with self.bell:
            if (entry := self.entries.get(task.key)) is None or entry.end is not None:
                return
            when = _now()
            fresh = [(when, row) for row in rows if row["epoch"] > entry.seen]
            if fresh:
                # what a worker reports can be lost with a machine or a cable; the record has all of it
                entry.spoilt = entry.spoilt or fresh[0][1]["epoch"] > entry.seen + 1
                entry.rows += fresh
                entry.seen = fresh[-1][1]["epoch"]
                self._rows += len(fresh)
                if self._rows >= MANY:
                    self.bell.notify_all()

    def ended(self, task: Task, end: End, why: str = "") -> None:
        """A trial ended. One that never started here ran elsewhere, where it may be sent as well."""
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
        """The sweep ends: what still runs was interrupted, and nothing else will come."""
        with self.bell:
            for entry in self.entries.values():
                entry.end = entry.end or "interrupted"
                entry.due = 0.0
            self.closed = True
            self.bell.notify_all()

    def due(self) -> list[str]:
        """Keys of the trials of which there is something to send now, in the order in which they came."""
        with self.bell:
            self._rows = 0
            now = time.monotonic()
            return [key for key, entry in self.entries.items() if _news(entry) and entry.due <= now]

    def take(self, key: str) -> Parcel:
        """What to send of a trial; it stays here until it `arrived`."""
        with self.bell:
            entry = self.entries[key]
            return Parcel(entry, list(entry.rows), entry.end)

    def arrived(self, parcel: Parcel) -> None:
        """A parcel is where it should be; forget it."""
        entry, count = parcel.entry, len(parcel.rows)
        with self.bell:
            if count:
                entry.sent = parcel.rows[-1][1]["epoch"]
                entry.rows = entry.rows[count:]
            entry.refusals = 0
            if parcel.end is not None and entry.end == parcel.end:
                del self.entries[entry.task.key]

    def drop(self, parcel: Parcel) -> None:
        """Forget a trial as soon as it has ended, and what there is of it now."""
        with self.bell:
            parcel.entry.rows = parcel.entry.rows[len(parcel.rows) :]
            if parcel.entry.end is not None:
                self.entries.pop(parcel.entry.task.key, None)

    def lose_runs(self) -> None:
        """The store has forgotten the runs that it had."""
        with self.bell:
            for entry in self.entries.values():
                entry.run_id, entry.spoilt = None, True


def _news(entry: Entry) -> bool:
    return entry.run_id is None or bool(entry.rows) or entry.end is not None


def _now() -> int:
    return int(time.time() * 1000)
