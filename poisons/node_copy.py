"""A node's copy of what lies on a shelf: pulled and verified before it is used, pushed record last, bounded.

What is copied are folders with a `record.json` that tells the digests of the files beside it. There is no
rename on a shelf, so the record is written last: without it there is nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from poisons import arrow
from poisons.durable import StoreError, flush, intact, read_json, write_whole
from poisons.shelf import Shelf

RECORD = "record.json"
Record = dict[str, Any]


class NodeCopy:
    """Folders under `root` and on the `shelf`, by the same names. `bound`, if there is one, is how many bytes
    of data sets stay under `root` when others are pulled: the least recently used go."""

    def __init__(self, root: Path, shelf: Shelf, bound: int | None = None) -> None:
        self.root, self.shelf, self.bound = root, shelf, bound

    def record(self, name: str) -> Record | None:
        """The record of the folder on the shelf, or None if it has none that can be read."""
        return parsed(self.shelf.read(f"{name}/{RECORD}"))

    def pull(self, name: str) -> bool:
        """Have the folder here, every file as the shelf's record says. False if the shelf has none, or one
        that is damaged: that one's record is then removed, so that it can be made again."""
        if (record := self.record(name)) is None:
            return False
        with FileLock(self._lock(name)):
            if self._whole_here(name):
                return True  # somebody else pulled it meanwhile
            self.make_room(sum(told["bytes"] for told in files_of(record).values()))
            if self._pull(name, record) or self._pull(name, record):  # once more: it may have been the line
                return True
        if self.record(name) == record:
            self.shelf.remove(f"{name}/{RECORD}")
        return False

    def push(self, name: str) -> None:
        """Have the folder on the shelf, unless it has one already. StoreError if that cannot be done; then
        others see nothing of it."""
        try:
            if self.record(name) is not None:
                return
            data = (self.root / name / RECORD).read_bytes()
            for file in files_of(json.loads(data)):
                self.shelf.upload(self.root / name / file, f"{name}/{file}")
            self.shelf.write(f"{name}/{RECORD}", data)
        except OSError as error:
            raise StoreError(
                f"{name} is on this machine, but could not be written for others ({error}); "
                "the same command again goes on"
            ) from error
        self.make_room(0)

    def touch(self, name: str) -> None:
        """Note that it is used now."""
        os.utime(self.root / name / RECORD)

    def make_room(self, needed: int) -> None:
        """Remove the data sets that were not used for longest, until `needed` bytes more are within the
        bound. One that somebody has open, builds or removes stays, and so does what only this node has."""
        if self.bound is None:
            return
        found = [(folder, _size(folder)) for folder in self._by_age()]
        held = sum(size for _, size in found)
        for folder, size in found:
            if held + needed <= self.bound:
                return
            held -= size if self._evict(folder) else 0

    def _by_age(self) -> list[Path]:
        marks = (self.root / "data").glob(f"*/{RECORD}")
        return [mark.parent for mark in sorted(marks, key=_age) if mark.parent.suffix != ".tmp"]

    def _evict(self, folder: Path) -> bool:
        name, going = f"data/{folder.name}", folder.with_name(f"{folder.name}.gone.tmp")
        key = folder.name.rpartition("-")[2]
        with ExitStack() as held:
            try:
                for lock in (self.root / "locks" / f"data-{key}.lock", self._lock(name)):
                    held.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                return False
            if any(arrow.in_use(file) for file in folder.glob("*.arrow")) or self.record(name) is None:
                return False
            shutil.rmtree(going, ignore_errors=True)
            os.rename(folder, going)
        shutil.rmtree(going, ignore_errors=True)
        shutil.rmtree(self.root / "statistics" / folder.name, ignore_errors=True)
        return True

    def _pull(self, name: str, record: Record) -> bool:
        final = self.root / name
        temporary = final.with_name(f"{final.name}.pull.tmp")  # ours alone: the lock is held
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            for file, told in files_of(record).items():
                place = temporary / file
                if not self.shelf.download(f"{name}/{file}", place) or not intact(place, told):
                    return False
                os.utime(place, ns=(told["mtime_ns"], told["mtime_ns"]))  # known by it without being read
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
        record = read_json(self.root / name / RECORD)
        files = files_of(record) if record is not None else {}
        return bool(files) and all(intact(self.root / name / file, told) for file, told in files.items())

    def _lock(self, name: str) -> Path:
        return self.root / "locks" / f"pull-{name.replace('/', '-')}.lock"


def files_of(record: Record) -> dict[str, Record]:
    """The stamps of the files beside a record, by name: a data set has several, an import has one."""
    one = {"perturbation.arrow": record["file"]} if "file" in record else {}
    return dict(record.get("files", one))


def parsed(data: bytes | None) -> Record | None:
    """The mapping in these bytes of JSON, or None if there is none."""
    try:
        found = json.loads(data or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _age(mark: Path) -> float:
    try:
        return mark.stat().st_mtime
    except FileNotFoundError:  # just removed
        return 0.0


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.arrow"))
