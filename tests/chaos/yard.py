"""Where a run of a test may litter: it finds every process that was started in it and every temporary file."""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import psutil

MARK = "OPSCTL_TEST_MARK"
CLOCK = Path(__file__).with_name("clock")  # what Python starts with that has this folder on its path
Thing = TypeVar("Thing")


class Yard:
    """From `with` to its end. Give `env` to all that is started: it is inherited by what that starts."""

    def __init__(self, place: str = "/tmp") -> None:
        self.heartbeat = secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="oc-", dir=place))  # short: Ray has sockets in it
        self.temporary, self.ray = self.folder / "t", self.folder / "r"
        for folder in (self.temporary, self.ray):
            folder.mkdir()
        self.clock = self.folder / "clock"
        self.jump(0.0)
        paths = [str(CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = {
            MARK: self.heartbeat,
            "TMPDIR": str(self.temporary),
            "RAY_TMPDIR": str(self.ray),
            "OPSCTL_TEST_CLOCK": str(self.clock),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def jump(self, seconds: float) -> None:
        """Set the wall clock of every process that is started here, while it runs, so far from the true time."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    def started(self, own: Mapping[str, object]) -> dict[str, str]:
        """The environment of what is started here, with some variables of its own."""
        return {**os.environ, **self.env, **{name: str(value) for name, value in own.items()}}

    def processes(self) -> list[psutil.Process]:
        """All that still run, whoever is their parent now."""
        return [process for process in psutil.process_iter() if self._began(process)]

    def files(self) -> list[Path]:
        """All that lies in the folder for temporary files."""
        return [path for path in self.temporary.rglob("*") if not path.is_dir()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _began(self, process: psutil.Process) -> bool:
        """Whether it was started here. Some of Ray's write their title over their environment; those have a
        log open."""
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.environ().get(MARK) == self.heartbeat:
                return True
            return any(Path(file.path).is_relative_to(self.ray) for file in process.open_files())
        return False


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A file system of 64 MB, so that it can be full; None where none can be had. It lies outside pytest's
    folders: pytest could not clear them away after a run that was killed."""
    folder = Path(tempfile.mkdtemp(prefix="oc-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def told(process: psutil.Process) -> str:
    """A process's command line; Ray's workers say in it what they do."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def settled(read: Callable[[], list[Thing]], seconds: float = 15.0) -> list[Thing]:
    """What `read` still returns after a while in which it could have gone."""
    end = time.monotonic() + seconds
    while (found := read()) and time.monotonic() < end:
        time.sleep(0.2)
    return found
