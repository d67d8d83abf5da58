"""What a driver asks of the machine it runs on: signals, a scratch folder, whether somebody listens."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def knock(address: str) -> bool:
    """Whether somebody listens at `host:port`, an OSError if not; False for what is no such address."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return False
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    return True


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this process on this machine, gone afterwards; those of processes killed here go too."""
    home = Path(tempfile.gettempdir()) / f"opsctl-{getpass.getuser()}"
    home.mkdir(exist_ok=True)
    for left in home.iterdir():
        if gone(left.name.partition(".")[0]):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{this_process()}.", dir=home))
    try:
        yield folder
    finally:
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
