"""The quarantine for damaged files: they count as missing and are replaced, but nothing is lost.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import time

from orchestrator.storage.storage import Storage

FOLDER = "quarantine"


def quarantine(storage: Storage, name: str) -> None:
    """Move a damaged file to `quarantine/<its name>-<time>`."""
    storage.move(name, f"{FOLDER}/{name.replace('/', '-')}-{time.time_ns()}")
