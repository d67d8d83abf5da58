"""A sandbox for a run of a test, which finds every process started in it and every temporary file."""

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
CLOCK = Path(__file__).with_name(
    "clock"
)  # Python imports sitecustomize from this folder if it is on its path
Thing = TypeVar("Thing")


class Yard:
    """A context manager. Pass `env` to every process started in it; their children inherit it."""

    def __init__(self, place: str = "/tmp") -> None:
        self.token = secrets.token_hex(8)
        self.folder = Path(
            tempfile.mkdtemp(prefix="oc-", dir=place)
        )  # short, because Ray creates sockets in it
        self.temporary, self.ray = self.folder / "t", self.folder / "r"
        for folder in (self.temporary, self.ray):
            folder.mkdir()
        self.clock = self.folder / "clock"
        self.jump(0.0)
        paths = [str(CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = {
            MARK: self.token,
            "TMPDIR": str(self.temporary),
            "RAY_TMPDIR": str(self.ray),
            "OPSCTL_TEST_CLOCK": str(self.clock),
            "PYTHONPATH": os.pathsep.join(paths),
        }

    def jump(self, seconds: float) -> None:
        """Shift the wall clock of every process started here, while it runs, by so many seconds."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    def started(self, own: Mapping[str, object]) -> dict[str, str]:
        """The environment for a process started here, with some variables of its own."""
        return {**os.environ, **self.env, **{name: str(value) for name, value in own.items()}}

    def processes(self) -> list[psutil.Process]:
        """All that still run, whatever their parent is now."""
        return [process for process in psutil.process_iter() if self._began(process)]

    def files(self) -> list[Path]:
        """All temporary files."""
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
            if process.environ().get(MARK) == self.token:
                return True
            return any(Path(file.path).is_relative_to(self.ray) for file in process.open_files())
        return False


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A file system of 64 MB, small enough to fill; None if none can be mounted. It is outside pytest's folders,
    which pytest could not remove after a run that was killed."""
    folder = Path(tempfile.mkdtemp(prefix="oc-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def command_line(process: psutil.Process) -> str:
    """A process's command line; that of a Ray worker names its task."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def settled(read: Callable[[], list[Thing]], seconds: float = 15.0) -> list[Thing]:
    """What `read` still returns after it had time to become empty."""
    end = time.monotonic() + seconds
    while (found := read()) and time.monotonic() < end:
        time.sleep(0.2)
    return found
