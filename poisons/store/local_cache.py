"""A node's cache of remote storage: folders are verified when pulled and published when pushed; size is
bounded.

Each folder has a `record.json` with the digests of the files beside it. Remote storage cannot rename, so the
record is written last, and a folder without one does not exist. Remote file names contain digests, and the
first record written wins, so two builders of one folder never mix their bytes.
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
from poisons.store.remote import RemoteStorage
from trainers.stored import DamagedError, read_regular

KINDS = ("data", "imports")  # folders that count against the bound
Record = dict[str, Any]


class LocalCache:
    """Folders under `root` and in `remote` storage, by the same names. `bound` limits the bytes of data sets
    and imports under `root`: a pull first evicts the least recently used.

    Small files do not count: statistics, which are evicted with their data set, pictures, checkpoints.
    """

    def __init__(self, root: Path, remote: RemoteStorage, bound: int | None = None) -> None:
        self.root, self.remote, self.bound = root, remote, bound

    def record(self, name: str) -> Record | None:
        """The folder's remote record, or None if there is none that can be read."""
        return _parsed(name, self.remote.read(f"{name}/{RECORD}"))

    def record_here(self, name: str) -> Record | None:
        """The folder's record under `root`, or None if there is none that can be read."""
        return _parsed(name, read_regular(self.root / name / RECORD, DATA.limit))

    def pull(self, name: str) -> bool:
        """Download the folder unless it is here and intact. False if there is no remote one, or it is
        damaged: then its record is removed, so that it is built again."""
        with self._lock(name):
            return self._whole_here(name) or self._fetch(name)  # another process may have pulled it

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Keep the folder here for the length of the block; pull it first if remote storage has it and this
        node does not."""
        with self._lock(name):
            if self._whole_here(name) or self._fetch(name):
                self.touch(name)
            yield

    def push(self, name: str) -> bool:
        """Upload the folder unless a remote one exists. False if that one has other bytes: then this copy is
        removed, and the remote one can be pulled. StoreError if the upload fails; other nodes then see
        nothing of it."""
        try:
            ours = self.agrees(name) or (self.record(name) is None and self._send(name))
            if not ours:
                with self._lock(name):
                    self._drop(name)
        except OSError as error:
            raise StoreError(
                f"{name} is on this machine, but could not be written for others ({error}); "
                "run the same command again to continue"
            ) from error
        self.make_room(0)
        return ours

    def agrees(self, name: str) -> bool:
        """Whether the remote folder exists and has the same bytes as this one."""
        there, here = self.record(name), self.record_here(name)
        return there is not None and here is not None and digests(there) == digests(here)

    def reject(self, name: str) -> None:
        """Remove the remote record if its folder equals this one: the bytes match the record but are no data
        set, so it must be built again. Raises OSError."""
        if self.agrees(name):
            self.remote.remove(f"{name}/{RECORD}")

    def touch(self, name: str) -> None:
        """Mark the folder as used now."""
        with suppress(FileNotFoundError):
            os.utime(self.root / name / RECORD)

    def make_room(self, needed: int) -> None:
        """Evict the least recently used folders until `needed` more bytes fit into the bound. A folder that
        is open, being built or being removed stays, and so does one that exists only here."""
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
        """Remove the folder here; processes that have it open keep their files."""
        folder = self.root / name
        going = folder.with_name(f"{folder.name}.gone.tmp")
        shutil.rmtree(going, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(folder, going)
        shutil.rmtree(going, ignore_errors=True)

    def _send(self, name: str) -> bool:
        """Upload the folder's files, then its record. False if another node's record came first; then the
        files are removed again."""
        data = (self.root / name / RECORD).read_bytes()
        mine = digests(folder_record(name, data) or {})
        for file in mine:
            self.remote.upload(self.root / name / file, remote_name(name, file, mine[file]))
        if self.remote.create(f"{name}/{RECORD}", data) or self.agrees(name):
            return True
        if (record := self.record(name)) is None:  # the remote record is damaged
            self.remote.write(f"{name}/{RECORD}", data)
            return True
        theirs = digests(record)
        for file in mine:
            if mine[file] != theirs.get(file):
                self.remote.remove(remote_name(name, file, mine[file]))
        return False

    def _fetch(self, name: str) -> bool:
        """`pull`, for a caller that holds the lock."""
        if (record := self.record(name)) is None:
            return False
        self.make_room(sum(stamp["bytes"] for stamp in files_of(record).values()))
        if self._pull(name, record) or self._pull(name, record):  # once more: it may have been the network
            return True
        if self.record(name) == record:
            self.remote.remove(f"{name}/{RECORD}")
        return False

    def _pull(self, name: str, record: Record) -> bool:
        final = self.root / name
        temporary = final.with_name(f"{final.name}.pull.tmp")  # no other process uses it: the lock is held
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            for file, stamp in files_of(record).items():
                place = temporary / file
                there = remote_name(name, file, stamp["sha256"])
                if not self.remote.download(there, place) or not intact(place, stamp):
                    return False
                if (written := stamp.get("mtime_ns")) is not None:
                    os.utime(place, ns=(written, written))  # so that `unchanged` need not read it
                flush(place)
            write_whole(temporary / RECORD, record)
            shutil.rmtree(final, ignore_errors=True)  # whatever is there is damaged
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
        """Held while a folder is fetched or removed, and while it must not be evicted."""
        return FileLock(self.root / "locks" / f"pull-{name.replace('/', '-')}.lock")


def digests(record: Record) -> dict[str, str]:
    """The digests of the files beside a record, by name."""
    return {file: stamp["sha256"] for file, stamp in files_of(record).items()}


def remote_name(name: str, file: str, digest: str) -> str:
    """The remote name of a file of the folder `name`; different bytes have different names."""
    stem, dot, kind = file.rpartition(".")
    return f"{name}/{stem}-{digest[:16]}{dot}{kind}"


def _parsed(name: str, data: bytes | None) -> Record | None:
    """The folder record parsed from these bytes; None if there are none, or they are damaged."""
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
