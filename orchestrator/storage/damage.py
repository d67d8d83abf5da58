"""Which files of a store's ledger, and which heartbeats, are damaged.

Imports nothing heavy.
"""

from __future__ import annotations

import re

from orchestrator.storage.heartbeats import damaged_heartbeats
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.quarantine import FOLDER

LEDGER = re.compile(r"[^/]+/(result|failure|stopped|look-[^/]+)\.json")


def damaged_files(ledger: Ledger) -> dict[str, str]:
    """All of them by name, with the reason. Every file is read. Raises OSError."""
    ledger.damaged.clear()
    names = sorted(f"trials/{name}" for name in ledger.storage.files("trials") if LEDGER.fullmatch(name))
    for name, data in ledger.storage.read_all(names).items():
        ledger.parsed(name, data)
    return {**ledger.damaged, **damaged_heartbeats(ledger.storage)}


def in_quarantine(ledger: Ledger) -> int:
    """How many damaged files and data sets were put aside."""
    return len(ledger.storage.names(FOLDER))
