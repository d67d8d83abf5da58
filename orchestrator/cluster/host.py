"""What a driver asks of the machine it runs on: signals, a scratch folder, whether somebody listens."""

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
