"""Where damaged files go: they count as missing, and what takes their place is new, but nothing is lost.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import time

from orchestrator.storage.storage import Depot

FOLDER = "quarantine"


def quarantine(depot: Depot, name: str) -> None:
    """Put a damaged file aside, as `quarantine/<its name>-<when>`."""
    depot.move(name, f"{FOLDER}/{name.replace('/', '-')}-{time.time_ns()}")
