"""Who runs a sweep just now: a driver leaves a mark in the storage, renews it, and reads there whether it is
to stop.

A mark counts its beats, and whoever watches it uses a clock of his own: clocks that differ, or jump, harm
nobody. Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from orchestrator.storage.process import alive, machine
from orchestrator.storage.quarantine import quarantine
from orchestrator.storage.records import HEARTBEAT
from orchestrator.storage.storage import Storage
from trainers.stored import DamagedError

BEAT_SECONDS = 3.0
STALE_SECONDS = 60.0  # without a beat: its driver is dead, or cut off
BURY_SECONDS = 600.0  # without a beat: whatever it was, its mark says nothing any more
ROUND_BEATS = 20  # between two looks at the others' marks
ID = re.compile("[A-Za-z0-9_.-]{1,200}")
Mark = dict[str, Any]


class Driver:
    """The mark of this process, from `with` to its end. `state` is what it tells beside who it is; another
    thread reads it, so replace it and never change it."""

    def __init__(self, storage: Storage, sweep: str, told: Mark, stop: threading.Event) -> None:
        """`told` stays as it is; `stop` is set when somebody asks this driver to stop."""
        self.id = f"{sweep}-{os.getpid()}-{secrets.token_hex(4)}"
        self.storage, self.stop = storage, stop
        self.state: Mark = {}
        self._told = told | {
            "id": self.id,
            "sweep": sweep,
            "host": platform.node(),
            "machine": machine(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._beat = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            self.storage.remove(f"drivers/{self.id}.json")
            self.storage.remove(f"drivers/{self.id}.stop")

    def beat(self) -> None:
        """Renew the mark. Raises OSError."""
        self._beat += 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        mark = self._told | {"beat": self._beat, "time": now, "state": self.state}
        self.storage.write(f"drivers/{self.id}.json", json.dumps(mark).encode())

    def _renew(self) -> None:
        others = Watch(self.storage)
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # storage that is full, or away for a while, must not end a sweep
                self.beat()
            with suppress(OSError):  # and one that is full can still be asked
                if self.storage.read(f"drivers/{self.id}.stop") is not None:
                    self.stop.set()
            with suppress(OSError):
                if self._beat % ROUND_BEATS == 0:
                    bury_silent(self.storage, others)


class Watch:
    """Which drivers live, as far as one can tell from here."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._seen: dict[str, tuple[int, float]] = {}  # id -> its last beat, and when it was first seen here

    def alive(self, driver: str) -> bool:
        """False once its mark is gone, its process on this machine is, or no beat came for STALE_SECONDS."""
        mark = read_mark(self.storage, driver)
        return mark is not None and not process_gone(mark) and self.silent(driver, mark) < STALE_SECONDS

    def silent(self, driver: str, mark: Mark) -> float:
        """For how many seconds a driver gave no beat but its mark's, as far as this one has watched."""
        beat, since = self._seen.get(driver, (-1, 0.0))
        if mark["beat"] != beat:
            since = time.monotonic()
            self._seen[driver] = (mark["beat"], since)
        return time.monotonic() - since


def marks(storage: Storage) -> list[Mark]:
    """The marks of all drivers but those that are known to be dead."""
    names = [name.removesuffix(".json") for name in storage.names("drivers") if name.endswith(".json")]
    found = (read_mark(storage, name) for name in names)
    return [mark for mark in found if mark is not None and not process_gone(mark)]


def read_mark(storage: Storage, driver: str) -> Mark | None:
    """A driver's mark, or None if it has none, or one that is damaged."""
    with suppress(DamagedError):
        return _checked_mark(storage, driver)
    return None


def damaged_marks(storage: Storage) -> dict[str, str]:
    """The files of marks that are damaged, and why."""
    found = {}
    for name in storage.names("drivers"):
        driver, _, kind = name.rpartition(".")
        try:
            _ = kind == "json" and _checked_mark(storage, driver)
        except DamagedError as error:
            found[f"drivers/{name}"] = str(error)
    return found


def _checked_mark(storage: Storage, driver: str) -> Mark | None:
    if not ID.fullmatch(driver) or (data := storage.read(f"drivers/{driver}.json")) is None:
        return None
    mark = HEARTBEAT.read(data)
    if mark["id"] != driver:
        raise DamagedError(f"it is of the driver {mark['id']}")
    return mark


def shows(storage: Storage, driver: str, *, patience: float = STALE_SECONDS) -> bool:
    """Whether a driver that lives has its mark in this storage. What a shared folder does not show yet is
    waited for: a machine may go by a listing that is a minute old. Raises OSError."""
    end = time.monotonic() + patience
    while read_mark(storage, driver) is None:
        if time.monotonic() >= end:
            return False
        time.sleep(min(BEAT_SECONDS, patience))
    return True


def ask_to_stop(storage: Storage, driver: str) -> None:
    """Have a driver end its sweep cleanly; it hears of it with its next beat."""
    storage.write(f"drivers/{driver}.stop", b"{}")


def bury(storage: Storage) -> None:
    """Remove what drivers of this machine have left that are no more: marks, and what they had begun to
    write. Damaged marks go to `quarantine/`."""
    storage.tidy()
    for name in damaged_marks(storage):
        quarantine(storage, name)
    for name in storage.names("drivers"):
        driver, _, kind = name.rpartition(".")
        mark = read_mark(storage, driver)
        if (kind == "json" and mark is not None and process_gone(mark)) or (kind == "stop" and mark is None):
            storage.remove(f"drivers/{name}")


def bury_silent(storage: Storage, watch: Watch) -> None:
    """Remove the marks of drivers, on whatever machine, that gave no beat for BURY_SECONDS while they were
    watched. One that was only cut off leaves its mark again with its next beat."""
    for name in storage.names("drivers"):
        driver, _, kind = name.rpartition(".")
        mark = read_mark(storage, driver) if kind == "json" else None
        if mark is not None and watch.silent(driver, mark) > BURY_SECONDS:
            storage.remove(f"drivers/{driver}.json")
            storage.remove(f"drivers/{driver}.stop")


def is_ours(mark: Mark) -> bool:
    """Whether a mark is this process's."""
    return bool(mark["machine"] == machine() and mark["pid"] == os.getpid())


def process_gone(mark: Mark) -> bool:
    """Whether the process of a mark is known to have ended; on another machine nobody can tell, so no."""
    return mark["machine"] == machine() and not alive(mark["pid"])
