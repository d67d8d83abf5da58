"""Names of processes that are unique across machines, and whether such a process has ended."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def machine() -> str:
    """An id of this machine since it booted, or of this container: host names are not unique, and process ids
    are reused."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, space = "", 0
    return f"{platform.node()}/{boot}/{space}"


def this_process() -> str:
    """A name for this process that can be part of a file name."""
    return f"{hashlib.sha256(machine().encode()).hexdigest()[:8]}-{os.getpid()}"


def gone(process: str) -> bool:
    """Whether the process of that name is known to have ended; False for one of another machine."""
    return here(process) and not alive(int(process.partition("-")[2]))


def here(process: str) -> bool:
    """Whether that is the name of a process on this machine."""
    where, _, pid = process.partition("-")
    return this_process().startswith(f"{where}-") and pid.isdecimal()


def alive(pid: int) -> bool:
    """Whether a process of this machine is running. A zombie is not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or not on Linux
        return True
