"""`opsctl stop`: asks the drivers of a store to end their sweeps, from any machine with access to the store.

Imports only light modules, so that it starts instantly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.storage.heartbeats import Watch, ask_to_stop
from orchestrator.storage.records import Heartbeat
from orchestrator.storage.storage import Storage

POLL_SECONDS = 0.5


def stop_drivers(storage: Storage, drivers: Sequence[Heartbeat], *, wait: float) -> list[Heartbeat]:
    """Ask these drivers to stop, and wait for them at most `wait` seconds. Returns those that still run.

    A dead driver counts as stopped, and its heartbeat is removed. The request to stop stays until the next
    sweep starts, because the driver may only be disconnected and return. Raises OSError."""
    for heartbeat in drivers:
        ask_to_stop(storage, heartbeat["id"])
    watch, left, end = Watch(storage), list(drivers), time.monotonic() + wait
    while left := [heartbeat for heartbeat in left if watch.alive(heartbeat["id"])]:
        if time.monotonic() >= end:
            break
        time.sleep(POLL_SECONDS)
    unanswered = {heartbeat["id"] for heartbeat in left}
    for heartbeat in drivers:
        if heartbeat["id"] not in unanswered:
            storage.remove(f"drivers/{heartbeat['id']}.json")  # the driver may have removed it already
    return left
