"""What a driver asks of the machine it runs on: signals, a scratch folder, whether somebody listens."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

SCRATCH = "opsctl-"  # how a scratch folder's name begins
OWNER = "process"  # the file in it that names its process
REMOVE_SECONDS = 5.0  # in which a scratch folder can be removed


def knock(address: str) -> bool:
    """Whether somebody listens at `host:port`, an OSError if not; False for what is no such address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return False
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    return True


@contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A folder of this process, readable by its user alone, gone afterwards. It lies in `where`, by default
    the system's folder for temporary files, under a name that nobody can guess and so nobody can occupy.
    Folders left there by processes of the same user that were killed go too."""
    base = where or Path(tempfile.gettempdir())
    _remove_left_over(base)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=base))
    try:
        (folder / OWNER).write_text(this_process())
        yield folder
    finally:
        end = time.monotonic() + REMOVE_SECONDS
        while folder.exists() and time.monotonic() < end:  # daemons that are ending may still write there
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.01)


def _remove_left_over(base: Path) -> None:
    """Remove the scratch folders in `base` that belong to this user and whose process has ended. Anything
    else by such a name, a symbolic link too, is left alone."""
    for folder in base.glob(f"{SCRATCH}*"):
        with suppress(OSError, ValueError):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            if gone((folder / OWNER).read_text()):
                shutil.rmtree(folder, ignore_errors=True)


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


@contextmanager
def stoppable(stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal does what it always did."""
    stop = stop or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for name in before:
        signal.signal(name, handle)
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and that nobody has buried does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or this is no Linux
        return True
