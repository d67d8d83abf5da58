"""Named bytes that every machine of a sweep can reach: a folder that they share, or an fsspec URL.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from orchestrator.storage.process import gone, here, this_process
from poisons.durable import flush
from trainers.redaction import redacted
from trainers.stored import open_regular

DAY = 86_400  # seconds; no file takes longer to write


LARGEST = 256 * 10**6  # bytes that `read` returns at most; opsctl reads no larger file whole
PART = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


class UnsafeNameError(ValueError):
    """A name that could lie outside the storage location. Nothing is read, written or removed there."""


def safe(name: str) -> bool:
    """Whether a name, such as `trials/<key>/result.json`, can only lie within the folder that it is relative
    to: no `..`, nothing absolute, no empty part, no backslash, no control character."""
    return len(name) <= 1024 and all(
        PART.fullmatch(part) and part not in (".", "..") for part in name.split("/")
    )


def check_safe(name: str) -> str:
    """The name. Raises UnsafeNameError for one that is not `safe`."""
    if not safe(name):
        raise UnsafeNameError(f"{name[:200]!r} is no name within a store")
    return name


@dataclass(frozen=True)
class Kept:
    """A file in storage: its size, and when it was written (seconds since 1970 by the clock of the storage),
    or None if that is unknown."""

    bytes: int
    changed: float | None


class Storage(ABC):
    """Bytes by name, such as `trials/<key>/result.json`. All methods may be called from any thread.

    Every method raises OSError if storage does not answer or is full, and UnsafeNameError for a name that
    could lie outside it. Listings contain safe names only; other files are ignored.
    """

    where: str  # its address for `open_storage`, valid on any machine that can reach it

    @property
    def shown(self) -> str:
        """`where` without credentials, as it may be displayed."""
        return redacted(self.where)

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content of `name`, in a folder at most LARGEST bytes of it; None if there is no regular file of
        that name."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write `data` to `name` atomically, replacing what was there."""

    @abstractmethod
    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        """Like `write`, but returns False and changes nothing if `name` exists. If several try at once,
        exactly one succeeds. A file that is not `lasting` may be empty or gone after a power cut; writing it
        does not wait for the disk."""

    def publish(self, name: str, data: bytes) -> bool:
        """Like `create`; the file survives a power cut."""
        return self.create(name, data)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file. Idempotent."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Rename a file or folder. Does nothing if it does not exist."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The last parts of the names of all entries of a folder; [] if there is no such folder."""

    @abstractmethod
    def holders(self, folder: str, name: str) -> set[str]:
        """The subfolders of `folder` that contain a file called `name`, by the last part of their names."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, Kept]:
        """All files in a folder, at any depth, by their names relative to it."""

    @abstractmethod
    def upload(self, file: Path, name: str) -> None:
        """Like `write` with the content of a local file, which need not fit into memory."""

    @abstractmethod
    def download(self, name: str, file: Path) -> bool:
        """Copy `name` to a local file; False if it does not exist."""

    @abstractmethod
    def remove_all(self, name: str) -> bool:
        """Remove a file, or a folder with all of its files. `record.json` is removed first, so that a folder
        that is being removed does not look complete. False if there was nothing."""

    @abstractmethod
    def tidy(self) -> None:
        """Remove temporary files of processes that were killed."""

    def now(self) -> float:
        """The time by the clock of `Kept.changed`, which may be a server's and differ from this machine's.
        Writes a file, and removes it."""
        mark = f"{this_process()}.{secrets.token_hex(8)}.tmp"
        self.write(f"tmp/{mark}", b"now")
        try:
            changed = self.files("tmp")[mark].changed
        finally:
            self.remove(f"tmp/{mark}")
        return time.time() if changed is None else changed

    def presence(self, folder: str) -> Callable[[str], bool]:
        """A test whether a file is there, given its name, for many names in a folder. At a URL it has what
        one listing had when `presence` was called."""
        return {f"{folder}/{name}" for name in self.files(folder)}.__contains__

    def read_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """`read` for several names."""
        return {name: self.read(name) for name in names}


class FolderStorage(Storage):
    """A folder on a local or a shared disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.where = str(self.root)

    def read(self, name: str) -> bytes | None:
        with self.open(name) as file:
            return None if file is None else file.read(LARGEST)

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedReader | None]:
        """A regular file, opened for reading, or None if there is none of that name."""
        if (file := open_regular(self._path(name))) is None:
            yield None
            return
        with file:
            yield file

    def write(self, name: str, data: bytes) -> None:
        place, temporary = self._prepared(name, data)
        try:
            os.replace(temporary, place)
            flush(place.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        place, temporary = self._prepared(name, data, flush=lasting)
        try:
            os.link(temporary, place)  # atomic; fails if the file exists
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def publish(self, name: str, data: bytes) -> bool:
        created = self.create(name, data)
        flush(self._path(name).parent)  # not for leases: it takes milliseconds
        return created

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            self._path(name).unlink()

    def move(self, name: str, to: str) -> None:
        self._path(to).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.rename(self._path(name), self._path(to))

    def names(self, folder: str) -> list[str]:
        try:
            there = os.listdir(self._path(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in there if not name.startswith(".") and safe(name))

    def holders(self, folder: str, name: str) -> set[str]:
        return {inner for inner in self.names(folder) if (self._path(folder) / inner / name).exists()}

    def files(self, folder: str) -> dict[str, Kept]:
        top, found = self._path(folder), {}
        for place, _, names in os.walk(top):
            for file in (Path(place, name) for name in names):
                with suppress(FileNotFoundError):
                    about, inner = file.lstat(), file.relative_to(top).as_posix()
                    if safe(inner):
                        found[inner] = Kept(about.st_size, about.st_mtime)
        return found

    def presence(self, folder: str) -> Callable[[str], bool]:
        return self._is_file

    def upload(self, file: Path, name: str) -> None:
        temporary, place = self._aside(name), self._path(name)
        try:
            shutil.copyfile(file, temporary)
            flush(temporary)
            os.replace(temporary, place)
            flush(place.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def download(self, name: str, file: Path) -> bool:
        with self.open(name) as source:
            if source is None:
                return False
            with file.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        return True

    def remove_all(self, name: str) -> bool:
        place = self._path(name)
        going = place.with_name(f"{place.name}.{secrets.token_hex(8)}.tmp")
        try:
            os.rename(place, going)  # atomic, so that no process opens a part of it
        except FileNotFoundError:
            return False
        shutil.rmtree(going) if going.is_dir() and not going.is_symlink() else going.unlink()
        return True

    def tidy(self) -> None:
        left = {name: name.partition(".")[0] for name in self.names("tmp")}
        now = self.now() if not all(map(here, left.values())) else 0.0
        for name, process in left.items():
            with suppress(FileNotFoundError):
                file = self.root / "tmp" / name
                # whether a process on another machine still runs cannot be checked
                old = not here(process) and now - file.stat().st_mtime > DAY
                if gone(process) or old:
                    file.unlink()

    def _path(self, name: str) -> Path:
        return self.root / check_safe(name)

    def _is_file(self, name: str) -> bool:
        try:
            return stat.S_ISREG(self._path(name).lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _prepared(self, name: str, data: bytes, *, flush: bool = True) -> tuple[Path, Path]:
        """The path of `name`, and a temporary file in the same file system that contains `data`."""
        temporary = self._aside(name)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                if flush:
                    os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return self._path(name), temporary

    def _aside(self, name: str) -> Path:
        """A temporary path for `name`, whose folder is made. The file name identifies the process."""
        for folder in (self._path(name).parent, self.root / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        return self.root / "tmp" / f"{this_process()}.{secrets.token_hex(8)}.tmp"
