"""What a driver asks of the machine it runs on: signals, a scratch folder, whether somebody listens."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


def knock(address: str) -> None:
    """See whether anyone listens at `host:port`; an OSError if not. Anything else is left to who uses it."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def scratch(home: Path, name: str) -> Iterator[Path]:
    """A folder of this process under `home`, gone afterwards; those of processes killed here go too."""
    home.mkdir(exist_ok=True)
    for left in home.glob(f"*-{platform.node()}-*"):
        if not running(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = home / f"{name}-{platform.node()}-{os.getpid()}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def running(folder: Path) -> bool:
    """Whether the process of a scratch folder still runs; on another machine nobody can tell, so yes."""
    name, _, pid = folder.name.rpartition("-")
    return not name.endswith(f"-{platform.node()}") or _alive(int(pid))


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal does what it always did."""
    stop = threading.Event()
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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
