"""A node's copy of what lies on a shelf: pulled and verified before it is used, pushed record last, bounded.

What is copied are folders with a `record.json` that tells the digests of the files beside it. There is no
rename on a shelf, so the record is written last: without it there is nothing. A file's name there holds its
digest, and of several records the first stays, so that two who build one folder never mix their bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from poisons import arrow
from poisons.durable import StoreError, flush, intact, write_whole
from poisons.records import DATA, RECORD, files_of, folder_record
from poisons.store.shelf import Shelf
from trainers.stored import DamagedError, read_regular

KINDS = ("data", "imports")  # what is counted against the bound
Record = dict[str, Any]


class NodeCopy:
    """Folders under `root` and on the `shelf`, by the same names. `bound`, if there is one, is how many bytes
    of data sets and imports stay under `root` when others are pulled: the least recently used go.

    Not counted is what is small beside them: statistics, which go with their data set, pictures, checkpoints.
    """

    def __init__(self, root: Path, shelf: Shelf, bound: int | None = None) -> None:
        self.root, self.shelf, self.bound = root, shelf, bound

    def record(self, name: str) -> Record | None:
        """The record of the folder on the shelf, or None if it has none that can be read."""
        return _parsed(name, self.shelf.read(f"{name}/{RECORD}"))

    def record_here(self, name: str) -> Record | None:
        """The record of the folder under `root`, or None if it has none that can be read."""
        return _parsed(name, read_regular(self.root / name / RECORD, DATA.limit))

    def pull(self, name: str) -> bool:
        """Have the folder here, every file as the shelf's record says. False if the shelf has none, or one
        that is damaged: that one's record is then removed, so that it can be made again."""
        with self._lock(name):
            return self._whole_here(name) or self._fetch(name)  # somebody else may have pulled it meanwhile

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Have the folder here for as long as the block, pulled if need be, and if the shelf has it."""
        with self._lock(name):
            if self._whole_here(name) or self._fetch(name):
                self.touch(name)
            yield

    def push(self, name: str) -> bool:
        """Have the folder on the shelf, unless it has one already. False if that is another's, of other
        bytes: then this one is no longer here, and that one can be pulled. StoreError if it cannot be done;
        then others see nothing of it."""
        try:
            ours = self.agrees(name) or (self.record(name) is None and self._send(name))
            if not ours:
                with self._lock(name):
                    self._drop(name)
        except OSError as error:
            raise StoreError(
                f"{name} is on this machine, but could not be written for others ({error}); "
                "the same command again goes on"
            ) from error
        self.make_room(0)
        return ours

    def agrees(self, name: str) -> bool:
        """Whether the shelf has the folder, of the same bytes as here."""
        there, here = self.record(name), self.record_here(name)
        return there is not None and here is not None and digests(there) == digests(here)

    def reject(self, name: str) -> None:
        """Have no such folder on the shelf, if it is the one that is here: its bytes are as its record says,
        but they are no data set, so that it is made again. Raises OSError."""
        if self.agrees(name):
            self.shelf.remove(f"{name}/{RECORD}")

    def touch(self, name: str) -> None:
        """Note that it is used now."""
        with suppress(FileNotFoundError):
            os.utime(self.root / name / RECORD)

    def make_room(self, needed: int) -> None:
        """Remove the folders that were not used for longest, until `needed` bytes more are within the bound.
        One that somebody has open, builds or removes stays, and so does what only this node has."""
        if self.bound is None:
            return
        found = [(folder, _size(folder)) for folder in self._by_age()]
        held = sum(size for _, size in found)
        for folder, size in found:
            if held + needed <= self.bound:
                return
            held -= size if self._evict(folder) else 0

    def _by_age(self) -> list[Path]:
        marks = (mark for kind in KINDS for mark in (self.root / kind).glob(f"*/{RECORD}"))
        return [mark.parent for mark in sorted(marks, key=_age) if mark.parent.suffix != ".tmp"]

    def _evict(self, folder: Path) -> bool:
        name, key = f"{folder.parent.name}/{folder.name}", folder.name.rpartition("-")[2]
        with ExitStack() as held:
            try:
                for lock in (FileLock(self.root / "locks" / f"data-{key}.lock"), self._lock(name)):
                    held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                return False
            if any(arrow.in_use(file) for file in folder.glob("*.arrow")) or not self.agrees(name):
                return False
            self._drop(name)
        shutil.rmtree(self.root / "statistics" / folder.name, ignore_errors=True)
        return True

    def _drop(self, name: str) -> None:
        """Have nothing of it here; who has it open keeps that."""
        folder = self.root / name
        going = folder.with_name(f"{folder.name}.gone.tmp")
        shutil.rmtree(going, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(folder, going)
        shutil.rmtree(going, ignore_errors=True)

    def _send(self, name: str) -> bool:
        """Have the folder's files on the shelf, then its record; False, and none of them, if another's record
        came first."""
        data = (self.root / name / RECORD).read_bytes()
        mine = digests(folder_record(name, data) or {})
        for file in mine:
            self.shelf.upload(self.root / name / file, shelved(name, file, mine[file]))
        if self.shelf.create(f"{name}/{RECORD}", data) or self.agrees(name):
            return True
        if (record := self.record(name)) is None:  # what is there is no record
            self.shelf.write(f"{name}/{RECORD}", data)
            return True
        theirs = digests(record)
        for file in mine:
            if mine[file] != theirs.get(file):
                self.shelf.remove(shelved(name, file, mine[file]))
        return False

    def _fetch(self, name: str) -> bool:
        """`pull`, by whoever holds the lock."""
        if (record := self.record(name)) is None:
            return False
        self.make_room(sum(stamp["bytes"] for stamp in files_of(record).values()))
        if self._pull(name, record) or self._pull(name, record):  # once more: it may have been the line
            return True
        if self.record(name) == record:
            self.shelf.remove(f"{name}/{RECORD}")
        return False

    def _pull(self, name: str, record: Record) -> bool:
        final = self.root / name
        temporary = final.with_name(f"{final.name}.pull.tmp")  # ours alone: the lock is held
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            for file, stamp in files_of(record).items():
                place = temporary / file
                there = shelved(name, file, stamp["sha256"])
                if not self.shelf.download(there, place) or not intact(place, stamp):
                    return False
                os.utime(place, ns=(stamp["mtime_ns"], stamp["mtime_ns"]))  # known by it without being read
                flush(place)
            write_whole(temporary / RECORD, record)
            shutil.rmtree(final, ignore_errors=True)  # damaged, if there is one
            os.rename(temporary, final)
            flush(final.parent)
        except OSError as error:
            raise StoreError(f"{name} could not be fetched to {self.root}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def _whole_here(self, name: str) -> bool:
        record = self.record_here(name)
        files = files_of(record) if record is not None else {}
        return bool(files) and all(intact(self.root / name / file, stamp) for file, stamp in files.items())

    def _lock(self, name: str) -> FileLock:
        """Held by whoever fetches the folder, lets go of it, or must not lose it meanwhile."""
        return FileLock(self.root / "locks" / f"pull-{name.replace('/', '-')}.lock")


def digests(record: Record) -> dict[str, str]:
    """The digests of the files beside a record, by name."""
    return {file: stamp["sha256"] for file, stamp in files_of(record).items()}


def shelved(name: str, file: str, digest: str) -> str:
    """Where a file of the folder called `name` lies on the shelf: bytes that differ never meet there."""
    stem, dot, kind = file.rpartition(".")
    return f"{name}/{stem}-{digest[:16]}{dot}{kind}"


def _parsed(name: str, data: bytes | None) -> Record | None:
    """The record of a folder that has these bytes; None if there is none, or it is damaged."""
    with suppress(DamagedError):
        return None if data is None else folder_record(name, data)
    return None


def _age(mark: Path) -> float:
    try:
        return mark.stat().st_mtime
    except FileNotFoundError:  # just removed
        return 0.0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.arrow"))
