"""Heartbeats: a driver writes one to storage, renews it every few seconds, and finds there whether it is
asked to stop. A driver whose heartbeat does not change for STALE_SECONDS counts as dead.

A heartbeat has a counter, and whoever watches it uses its own clock, so clocks that differ or jump do no
harm. Imports nothing heavy, so that `opsctl status` is instant.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from orchestrator.storage.process import alive, machine
from orchestrator.storage.quarantine import quarantine
from orchestrator.storage.records import HEARTBEAT, DriverState, Heartbeat
from orchestrator.storage.storage import Storage
from trainers.stored import DamagedError

BEAT_SECONDS = 3.0
STALE_SECONDS = 60.0  # without a beat, after which a driver counts as dead or disconnected
REMOVE_SECONDS = 600.0  # without a beat, after which any driver removes the heartbeat
ROUND_BEATS = 20  # between two reads of the others' heartbeats
ID = re.compile("[A-Za-z0-9_.-]{1,200}")


class Driver:
    """This process as a driver of a sweep, with a heartbeat from `with` to its end. Another thread reads
    `state`: replace it, never change it."""

    def __init__(
        self,
        storage: Storage,
        sweep: str,
        stop: threading.Event,
        *,
        needs: Sequence[str] = (),
        starts: Sequence[str] = (),
        snapshot: str | None = None,
    ) -> None:
        """`stop` is set when this driver is asked to stop. `needs` names the data sets that the sweep
        uses, `starts` the trials whose weights it starts from, `snapshot` the version of its plan."""
        self.id = f"{sweep}-{os.getpid()}-{secrets.token_hex(4)}"
        self.storage, self.stop = storage, stop
        self.state: DriverState = {}
        self._identity = {
            "needs": [*needs],
            "starts": [*starts],
            "outline": snapshot,
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
        """Renew the heartbeat. Raises OSError."""
        self._beat += 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        heartbeat = self._identity | {"beat": self._beat, "time": now, "state": self.state}
        self.storage.write(f"drivers/{self.id}.json", json.dumps(heartbeat).encode())

    def _renew(self) -> None:
        others = Watch(self.storage)
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # full or unreachable storage must not end a sweep
                self.beat()
            with suppress(OSError):  # full storage can still be read
                if self.storage.read(f"drivers/{self.id}.stop") is not None:
                    self.stop.set()
            with suppress(OSError):
                if self._beat % ROUND_BEATS == 0:
                    remove_silent(self.storage, others)


class Watch:
    """Determines which drivers are alive, as far as that can be seen from here."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._seen: dict[str, tuple[int, float]] = {}  # id -> its last beat, and when it was first seen here

    def alive(self, driver: str) -> bool:
        """Whether it has a heartbeat, its process runs if it is on this machine, and it has beaten within
        STALE_SECONDS."""
        heartbeat = read_heartbeat(self.storage, driver)
        return (
            heartbeat is not None
            and not process_gone(heartbeat)
            and self.silent(driver, heartbeat) < STALE_SECONDS
        )

    def silent(self, driver: str, heartbeat: Heartbeat) -> float:
        """Seconds since the last beat of a driver that this watch has seen."""
        beat, since = self._seen.get(driver, (-1, 0.0))
        if heartbeat["beat"] != beat:
            since = time.monotonic()
            self._seen[driver] = (heartbeat["beat"], since)
        return time.monotonic() - since


def live_heartbeats(storage: Storage) -> list[Heartbeat]:
    """The heartbeats of all drivers, except those that are known to be dead."""
    names = [name.removesuffix(".json") for name in storage.names("drivers") if name.endswith(".json")]
    found = (read_heartbeat(storage, name) for name in names)
    return [heartbeat for heartbeat in found if heartbeat is not None and not process_gone(heartbeat)]


def read_heartbeat(storage: Storage, driver: str) -> Heartbeat | None:
    """A driver's heartbeat, or None if it has none or a damaged one."""
    with suppress(DamagedError):
        return _checked_heartbeat(storage, driver)
    return None


def damaged_heartbeats(storage: Storage) -> dict[str, str]:
    """The damaged heartbeat files, with the reason."""
    found = {}
    for name in storage.names("drivers"):
        driver, _, kind = name.rpartition(".")
        try:
            _ = kind == "json" and _checked_heartbeat(storage, driver)
        except DamagedError as error:
            found[f"drivers/{name}"] = str(error)
    return found


def _checked_heartbeat(storage: Storage, driver: str) -> Heartbeat | None:
    if not ID.fullmatch(driver) or (data := storage.read(f"drivers/{driver}.json")) is None:
        return None
    heartbeat = HEARTBEAT.read(data)
    if heartbeat["id"] != driver:
        raise DamagedError(f"it is of the driver {heartbeat['id']}")
    return heartbeat


def shows(storage: Storage, driver: str, *, patience: float = STALE_SECONDS) -> bool:
    """Whether a living driver has its heartbeat in this storage. Waits for what a shared folder does not
    show yet: a machine may use a listing that is a minute old. Raises OSError."""
    end = time.monotonic() + patience
    while read_heartbeat(storage, driver) is None:
        if time.monotonic() >= end:
            return False
        time.sleep(min(BEAT_SECONDS, patience))
    return True


def ask_to_stop(storage: Storage, driver: str) -> None:
    """Ask a driver to end its sweep cleanly. It notices with its next beat."""
    storage.write(f"drivers/{driver}.stop", b"{}")


def remove_dead(storage: Storage) -> None:
    """Remove what dead drivers of this machine have left: heartbeats and temporary files. Damaged
    heartbeats go to `quarantine/`."""
    storage.tidy()
    for name in damaged_heartbeats(storage):
        quarantine(storage, name)
    for name in storage.names("drivers"):
        driver, _, kind = name.rpartition(".")
        heartbeat = read_heartbeat(storage, driver)
        if (kind == "json" and heartbeat is not None and process_gone(heartbeat)) or (
            kind == "stop" and heartbeat is None
        ):
            storage.remove(f"drivers/{name}")


def remove_silent(storage: Storage, watch: Watch) -> None:
    """Remove the heartbeats of drivers on any machine that have not beaten for REMOVE_SECONDS while they
    were watched. A driver that was only cut off writes its heartbeat again with its next beat."""
    for name in storage.names("drivers"):
        driver, _, kind = name.rpartition(".")
        heartbeat = read_heartbeat(storage, driver) if kind == "json" else None
        if heartbeat is not None and watch.silent(driver, heartbeat) > REMOVE_SECONDS:
            storage.remove(f"drivers/{driver}.json")
            storage.remove(f"drivers/{driver}.stop")


def is_ours(heartbeat: Heartbeat) -> bool:
    """Whether a heartbeat is this process's."""
    return bool(heartbeat["machine"] == machine() and heartbeat["pid"] == os.getpid())


def process_gone(heartbeat: Heartbeat) -> bool:
    """Whether the process of a heartbeat is known to have ended; False on another machine, where that
    cannot be seen."""
    return heartbeat["machine"] == machine() and not alive(heartbeat["pid"])
