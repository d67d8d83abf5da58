"""The damaged files of a store's ledger and heartbeats.

Imports nothing heavy.
"""

from __future__ import annotations

from orchestrator.storage.heartbeats import damaged_heartbeats
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.quarantine import FOLDER


def damaged_files(ledger: Ledger) -> dict[str, str]:
    """All of them by name, with the reason. Reads every file. Raises OSError."""
    ledger.damaged.clear()
    ledger.results(ledger.done())
    ledger.failures(ledger.failed())
    ledger.stops(ledger.ended())
    ledger.findings(ledger.probed())
    return {**ledger.damaged, **damaged_heartbeats(ledger.storage)}


def in_quarantine(ledger: Ledger) -> int:
    """The number of damaged files and data sets in quarantine."""
    return len(ledger.storage.names(FOLDER))
