"""Names of processes that no other process of any machine has, and whether one has ended."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def machine() -> str:
    """What tells this machine's processes from those of any other, of other containers, and of those before
    it was started: names of machines repeat, and so do numbers of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, space = "", 0
    return f"{platform.node()}/{boot}/{space}"


def this_process() -> str:
    """A name for this process, as part of a file's."""
    return f"{hashlib.sha256(machine().encode()).hexdigest()[:8]}-{os.getpid()}"


def gone(process: str) -> bool:
    """Whether a process of that name is known to have ended; on another machine nobody can tell, so no."""
    return here(process) and not alive(int(process.partition("-")[2]))


def here(process: str) -> bool:
    """Whether that is the name of a process of this machine."""
    where, _, pid = process.partition("-")
    return this_process().startswith(f"{where}-") and pid.isdecimal()


def alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and that nobody has buried does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or this is no Linux
        return True
