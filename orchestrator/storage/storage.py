"""Named bytes that every machine of a sweep can reach: a folder that they share, or an fsspec URL.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from orchestrator.storage.process import gone, here, this_process
from trainers.errors import InputError
from trainers.redaction import redacted
from trainers.stored import open_regular

DAY = 86_400  # seconds: nobody writes one file for longer
CACHE = "OPSCTL_CACHE"  # where this node keeps its copies of stores that lie elsewhere


LARGEST = 256 * 10**6  # bytes that `read` returns; what is larger is no file that opsctl reads whole
PART = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


class UnsafeNameError(ValueError):
    """A name that could lie outside the storage: nothing is read, written or removed there."""


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
    """A file in storage: its size, and when it was written (seconds since 1970, by the storage's own
    clock), or None if nobody knows."""

    bytes: int
    changed: float | None


class Storage(ABC):
    """Bytes by name, such as `trials/<key>/result.json`. All methods may be called from any thread.

    Every method raises OSError if the storage does not answer, or is full, and UnsafeNameError for a name
    that could lie outside it. What is listed has only safe names: others are nobody's.
    """

    where: str  # what `open_storage` takes to open it again, on any machine that can reach it

    @property
    def shown(self) -> str:
        """`where` as it may be shown: without credentials."""
        return redacted(self.where)

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The bytes of `name`, of a folder's file at most LARGEST; None if there is no ordinary file of that
        name."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Have `name` hold `data`, whole or not at all; what was there is replaced."""

    @abstractmethod
    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        """Like `write`, but False, and nothing is changed, if there is something of that name. Of several who
        try at once, one succeeds. What is not `lasting` may be empty, or gone, once a machine has lost its
        power, and costs no wait for the disk."""

    def publish(self, name: str, data: bytes) -> bool:
        """Like `create`, and it stays after a power cut."""
        return self.create(name, data)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Have nothing of that name; harmless if there was nothing."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Have what `name` holds under another name; harmless if there is nothing of that name."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """What lies directly in a folder, by the last part of its name; [] if there is no such folder."""

    @abstractmethod
    def holders(self, folder: str, name: str) -> set[str]:
        """The folders directly in `folder` that hold something called `name`, by their last part."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, Kept]:
        """All that lies in a folder, at any depth, by its name within the folder."""

    @abstractmethod
    def upload(self, file: Path, name: str) -> None:
        """Like `write` with the bytes of a file, which may be larger than the memory."""

    @abstractmethod
    def download(self, name: str, file: Path) -> bool:
        """Have the bytes of `name` in a file; False if there is nothing of that name."""

    @abstractmethod
    def remove_all(self, name: str) -> bool:
        """Have nothing of that name, nor in a folder of that name, whose `record.json` goes first: what is
        being removed is not taken for whole. False if there was nothing."""

    @abstractmethod
    def tidy(self) -> None:
        """Remove what processes that were killed had begun to write."""

    def now(self) -> float:
        """What time it is by the clock that `Kept.changed` goes by, which is not this machine's: it may be a
        server's, and this machine's may jump. Writes a file, and removes it."""
        mark = f"{this_process()}.{secrets.token_hex(8)}.tmp"
        self.write(f"tmp/{mark}", b"now")
        try:
            changed = self.files("tmp")[mark].changed
        finally:
            self.remove(f"tmp/{mark}")
        return time.time() if changed is None else changed

    def read_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """What `read` says of each name."""
        return {name: self.read(name) for name in names}


class FolderStorage(Storage):
    """A folder, on this machine's disk or on one that machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.where = str(self.root)

    def read(self, name: str) -> bytes | None:
        with self.open(name) as file:
            return None if file is None else file.read(LARGEST)

    @contextmanager
    def open(self, name: str) -> Iterator[BufferedReader | None]:
        """A file, to be read piece by piece; None if there is no ordinary file of that name."""
        if (file := open_regular(self._path(name))) is None:
            yield None
            return
        with file:
            yield file

    def write(self, name: str, data: bytes) -> None:
        place, temporary = self._prepared(name, data)
        try:
            os.replace(temporary, place)
            _flush(place.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        place, temporary = self._prepared(name, data, flush=lasting)
        try:
            os.link(temporary, place)  # fails if it is there, and is whole at once
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def publish(self, name: str, data: bytes) -> bool:
        created = self.create(name, data)
        _flush(self._path(name).parent)  # not for each lease: it takes milliseconds
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

    def upload(self, file: Path, name: str) -> None:
        temporary, place = self._aside(name), self._path(name)
        try:
            shutil.copyfile(file, temporary)
            _flush(temporary)
            os.replace(temporary, place)
            _flush(place.parent)
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
            os.rename(place, going)  # at once, so that nobody opens half of it
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
                old = not here(process) and now - file.stat().st_mtime > DAY  # its process is out of sight
                if gone(process) or old:
                    file.unlink()

    def _path(self, name: str) -> Path:
        return self.root / check_safe(name)

    def _prepared(self, name: str, data: bytes, *, flush: bool = True) -> tuple[Path, Path]:
        """Where `name` goes, and a file of the same file system that holds `data`."""
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
        """Where to write what becomes `name`; its folder is there. The file tells who wrote it."""
        for folder in (self._path(name).parent, self.root / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        return self.root / "tmp" / f"{this_process()}.{secrets.token_hex(8)}.tmp"


def open_storage(where: str | Path) -> Storage:
    """The storage at a path, or at any fsspec URL: `s3://bucket/prefix`, `gs://...`, `file:///...`.
    InputError if there can be none."""
    if (url := as_url(where)) is None:
        return FolderStorage(local_folder(where))
    from orchestrator.storage.url_storage import UrlStorage  # or whoever has a folder would wait for fsspec

    return UrlStorage(url)


def local_folder(where: str | Path) -> Path:
    """Where this machine keeps what is local of the store at `where`: the store itself, or, of a URL, a
    folder under $OPSCTL_CACHE (default: ~/.cache/opsctl) that is named after it, but for its credentials."""
    if (url := as_url(where)) is None:
        return Path(str(where).removeprefix("file://")).expanduser().absolute()
    home = Path(os.environ.get(CACHE) or "~/.cache/opsctl").expanduser().absolute()
    name = redacted(url)
    words = re.sub("[^A-Za-z0-9.]+", "-", name).strip("-")
    return home / f"{words[:80]}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def as_url(where: str | Path) -> str | None:
    """The URL, without a slash at its end, or None for what is a path. InputError for half a URL."""
    scheme, mark, rest = str(where).partition(":/")
    if not mark or not re.fullmatch("[a-z][a-z0-9+.-]+", scheme) or scheme == "file":
        return None
    if not rest.startswith("/"):
        url = redacted(f"{scheme}://{rest}")
        raise InputError(f"{url.replace('//', '/', 1)} is neither a path nor a URL; write {url}")
    return f"{scheme}://{rest.strip('/')}"


def _flush(place: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk itself."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
