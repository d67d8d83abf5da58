"""`opsctl status --watch`: follows a running sweep, from any machine with access to its store.

Imports only light modules, so that `opsctl status` starts instantly.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from orchestrator.monitoring.sweep_status import SweepStatus, read_status
from orchestrator.planning.snapshot import Snapshot
from orchestrator.storage.heartbeats import Watch, live_heartbeats
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Heartbeat


class View(Protocol):
    """Displays the status of a sweep each time `show` is called."""

    def show(self, status: SweepStatus, drivers: Sequence[Heartbeat]) -> None: ...

    def close(self) -> None: ...


def watch(
    snapshot: Snapshot, ledger: Ledger, view: View, *, every: float, stop: threading.Event
) -> SweepStatus | None:
    """Show a sweep every `every` seconds until nothing is left to run, its drivers have ended, or `stop` is
    set. Returns the last status. While the store does not answer, it retries."""
    alive, status, ran = Watch(ledger.storage), None, False
    try:
        while True:
            with suppress(OSError):
                drivers = [
                    heartbeat
                    for heartbeat in live_heartbeats(ledger.storage)
                    if heartbeat["sweep"] == snapshot.name
                ]
                drivers = [heartbeat for heartbeat in drivers if alive.alive(heartbeat["id"])]
                status = read_status(snapshot, ledger, status)
                view.show(status, drivers)
                if not drivers and (ran or not status.left):
                    return status
                ran = ran or bool(drivers)
            if stop.wait(every):
                return status
    finally:
        view.close()
