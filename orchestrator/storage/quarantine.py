"""Where damaged files go: they count as missing, and what takes their place is new, but nothing is lost.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

import time

from orchestrator.storage.storage import Storage

FOLDER = "quarantine"


def quarantine(storage: Storage, name: str) -> None:
    """Put a damaged file aside, as `quarantine/<its name>-<when>`."""
    storage.move(name, f"{FOLDER}/{name.replace('/', '-')}-{time.time_ns()}")
