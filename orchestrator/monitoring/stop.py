"""`opsctl stop`: the drivers of a store are asked to end their sweeps, from any machine that reaches it.

Imports nothing heavy, so that it is instant.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.storage.heartbeats import Watch, ask_to_stop
from orchestrator.storage.records import Heartbeat
from orchestrator.storage.storage import Storage

LOOK_SECONDS = 0.5


def stop_drivers(storage: Storage, drivers: Sequence[Heartbeat], *, wait: float) -> list[Heartbeat]:
    """Ask these drivers to stop and wait until they have, at most so many seconds; those that have not.

    One that is found dead has stopped, and its heartbeat goes. What asks it to stop stays until the next
    sweep begins: it may only be cut off, and come back. Raises OSError."""
    for heartbeat in drivers:
        ask_to_stop(storage, heartbeat["id"])
    watch, left, end = Watch(storage), list(drivers), time.monotonic() + wait
    while left := [heartbeat for heartbeat in left if watch.alive(heartbeat["id"])]:
        if time.monotonic() >= end:
            break
        time.sleep(LOOK_SECONDS)
    unanswered = {heartbeat["id"] for heartbeat in left}
    for heartbeat in drivers:
        if heartbeat["id"] not in unanswered:
            storage.remove(f"drivers/{heartbeat['id']}.json")  # harmless if it did so itself
    return left
