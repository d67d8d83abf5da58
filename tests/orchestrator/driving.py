"""Drivers that tests let run: real heartbeats, renewed by real threads, in a store of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.ledger import Ledger

IDLE: dict[str, Any] = {
    "total": 4,
    "done": 0,
    "failed": 0,
    "stopped": 0,
    "elsewhere": 0,
    "waiting": 3,
    "running": [],
    "building": [],
    "slots": 2,
    "faults": {},
}


def heartbeat(driver: str, *, sweep: str = "tiny", beat: int = 1) -> bytes:
    """The heartbeat of a driver on another machine."""
    time = "2026-01-01T00:00:00+00:00"
    who = {"id": driver, "sweep": sweep, "host": "box", "machine": "another", "pid": 1}
    return json.dumps({**who, "started": time, "time": time, "beat": beat, "state": {}}).encode()


@contextmanager
def driving(where: str, sweep: str, *, snapshot: str = "", **state: Any) -> Iterator[Driver]:
    """An idle driver of a sweep until it is asked to stop or the block ends."""
    stop, begun, drivers = threading.Event(), threading.Event(), list[Driver]()

    def drive() -> None:
        with Driver(Ledger(where).storage, sweep, stop, needs=[], snapshot=snapshot) as driver:
            driver.state = IDLE | state
            driver.beat()
            drivers.append(driver)
            begun.set()
            stop.wait()

    thread = threading.Thread(target=drive)
    thread.start()
    assert begun.wait(10)
    try:
        yield drivers[0]
    finally:
        stop.set()
        thread.join()


def run(name: str, **fields: Any) -> dict[str, Any]:
    """A running trial, as in the state of a driver."""
    return {"key": "0" * 16, "name": name, "since": "2026-01-01T00:00:00+00:00", "epochs": 9, **fields}
