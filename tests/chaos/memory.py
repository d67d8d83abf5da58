"""Memory pressure on this machine: the limit for Ray's workers, and a process that exceeds it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

ROOM = 8 * 2**30  # bytes that a cluster of a test may take before Ray kills its workers
SPARE = 3 * 2**30  # that are free even then: the machine itself never runs out of memory
GROW = "import sys, time\nheld = []\nfor _ in range(int(sys.argv[1])): held.append(b'x' * 2**28)\ntime.sleep(600)"
PIECE = 2**28


def threshold() -> float | None:
    """The share of memory in use at which Ray shall kill workers, somewhat above the present use; None if there is
    too little memory for that."""
    memory = psutil.virtual_memory()
    used = memory.total - memory.available
    return (used + ROOM) / memory.total if used + ROOM + SPARE < memory.total else None


@contextmanager
def taken(share: float) -> Iterator[None]:
    """Keep more than this share of memory in use by a process outside Ray during the block."""
    memory = psutil.virtual_memory()
    wanted = share * memory.total + SPARE / 2 - (memory.total - memory.available)
    process = subprocess.Popen([sys.executable, "-c", GROW, str(max(1, int(wanted / PIECE)))])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until(seen: Callable[[], bool], *, seconds: float = 120.0) -> bool:
    """Whether `seen` becomes true within some seconds."""
    end = time.monotonic() + seconds
    while not (found := seen()) and time.monotonic() < end:
        time.sleep(0.1)
    return found
