"""`opsctl stop`: the drivers of a store are asked to end their sweeps, from any machine that reaches it.

Imports nothing heavy, so that it is instant.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.storage.heartbeats import Mark, Watch, ask_to_stop
from orchestrator.storage.storage import Storage

LOOK_SECONDS = 0.5


def stop_drivers(storage: Storage, drivers: Sequence[Mark], *, wait: float) -> list[Mark]:
    """Ask these drivers to stop and wait until they have, at most so many seconds; those that have not.

    One that is found dead has stopped, and its mark goes. What asks it to stop stays until the next sweep
    begins: it may only be cut off, and come back. Raises OSError."""
    for mark in drivers:
        ask_to_stop(storage, mark["id"])
    watch, left, end = Watch(storage), list(drivers), time.monotonic() + wait
    while left := [mark for mark in left if watch.alive(mark["id"])]:
        if time.monotonic() >= end:
            break
        time.sleep(LOOK_SECONDS)
    unanswered = {mark["id"] for mark in left}
    for mark in drivers:
        if mark["id"] not in unanswered:
            storage.remove(f"drivers/{mark['id']}.json")  # harmless if it did so itself
    return left
