"""`opsctl status --watch`: a sweep that runs, seen from any terminal or machine that reaches its store.

Imports nothing heavy, so that looking at a sweep is instant.
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
    """Shows how far a sweep is, as often as it is told."""

    def show(self, status: SweepStatus, drivers: Sequence[Heartbeat]) -> None: ...

    def close(self) -> None: ...


def watch(
    snapshot: Snapshot, ledger: Ledger, view: View, *, every: float, stop: threading.Event
) -> SweepStatus | None:
    """Show a sweep every so many seconds until nothing is left to run, what ran it has ended, or `stop` is
    set; how far it was then. A store that does not answer for a while is asked again."""
    alive, seen, ran = Watch(ledger.storage), None, False
    try:
        while True:
            with suppress(OSError):
                drivers = [
                    heartbeat
                    for heartbeat in live_heartbeats(ledger.storage)
                    if heartbeat["sweep"] == snapshot.name
                ]
                drivers = [heartbeat for heartbeat in drivers if alive.alive(heartbeat["id"])]
                seen = read_status(snapshot, ledger, seen)
                view.show(seen, drivers)
                if not drivers and (ran or not seen.left):
                    return seen
                ran = ran or bool(drivers)
            if stop.wait(every):
                return seen
    finally:
        view.close()
