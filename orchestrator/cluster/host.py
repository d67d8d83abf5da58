"""Operating-system services for a driver: signals, a scratch folder, a check of whether a port is open."""

from __future__ import annotations

import os
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

from orchestrator.storage.process import gone, this_process

SCRATCH = "opsctl-"  # prefix of a scratch folder's name
OWNER = "process"  # the file in it that names its process
REMOVE_SECONDS = 5.0  # how long removing a scratch folder may take


def check_listening(address: str) -> bool:
    """True if something listens at `host:port`; raises OSError if not. False for any other `address`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return False
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    return True


@contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A temporary folder for this process, readable only by its user and removed at the end. It is created in
    `where` (default: the system's temporary folder) under an unguessable name, so that nobody can create it
    first. Folders left by killed processes of the same user are removed too."""
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
    else with such a name, including a symbolic link, is left alone."""
    for folder in base.glob(f"{SCRATCH}*"):
        with suppress(OSError, ValueError):
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            if gone((folder / OWNER).read_text()):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stoppable(stop: threading.Event | None = None) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal has its usual effect."""
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
