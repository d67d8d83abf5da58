"""A store in remote storage, such as a bucket, with copies on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from poisons.data_spec import DataSpec
from poisons.durable import unchanged
from poisons.records import RECORD
from poisons.store.local_cache import LocalCache, remote_name
from poisons.store.remote import RemoteCheckpoint, RemoteStorage
from poisons.store.store import FORMAT, Store, check_format, damaged_files, known
from trainers.checkpoint import Checkpoint


class CachedStore(Store):
    """Data sets in `remote` storage. Those that this machine uses are copied to `root`."""

    shares_locks = False

    def __init__(
        self, root: Path | str, remote: RemoteStorage, where: str, *, bound: int | None = None
    ) -> None:
        """`where` is the address that opens the same store on another machine. The copies take about `bound`
        bytes. InputError if it is no opsctl store, StoreError if it does not answer or cannot be written."""
        self.remote = remote
        super().__init__(root, where=where)
        self._copies = LocalCache(self.root, remote, bound)

    def _create(self) -> None:
        super()._create()
        if (mark := self.remote.read("store.json")) is None:
            self.remote.create("store.json", json.dumps({"format": FORMAT}).encode())
            mark = self.remote.read("store.json")  # another version may have been first
        check_format(mark, self.where)

    def record(self, spec: DataSpec) -> dict[str, Any] | None:
        here = super().record(spec)
        return here if here is not None else self._copies.record(f"data/{spec.name}")

    def _record_bytes(self, kind: str, limit: int) -> Iterator[tuple[str, bytes | None]]:
        names = sorted(self.remote.holders(kind, RECORD))
        read = self.remote.read_all([f"{kind}/{name}/{RECORD}" for name in names])
        yield from ((name, read[f"{kind}/{name}/{RECORD}"]) for name in names)

    def having(self, specs: Iterable[DataSpec]) -> frozenset[str]:
        names = [spec.name for spec in specs]
        read = self.remote.read_all([f"data/{name}/{RECORD}" for name in names])
        return frozenset(name for name in names if known(name, read[f"data/{name}/{RECORD}"]) is not None)

    def checkpoint(self, name: str, *, every: float = 60.0, data: str = "") -> Checkpoint:
        file = self._checkpoint_file(name)
        return RemoteCheckpoint(file, every=every, data=data, remote=self.remote, name=name)

    def share(self, name: str) -> None:
        self.remote.upload(self.root / name, name)
        (self.root / name).unlink()  # a machine's cache does not grow with every trial

    @contextmanager
    def shared(self, name: str) -> Iterator[Path]:
        file = self.root / name
        copy = file.with_name(f".{file.name}.download.tmp")
        try:
            yield copy if self.remote.download(name, copy) else file
        finally:
            copy.unlink(missing_ok=True)

    def file_name(self, folder: str, file: str, sha256: str) -> str:
        return remote_name(folder, file, sha256)

    def damage(self, folder: str, stamps: Mapping[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        with TemporaryDirectory(dir=self.root, prefix="verify-") as place:
            for name, stamp in stamps.items():
                file = Path(place, name)
                self.remote.download(remote_name(folder, name, stamp["sha256"]), file)
                found |= damaged_files({name: stamp}, self._at(file))
                file.unlink(missing_ok=True)
        return found

    def _at(self, file: Path) -> Callable[[str], Path]:
        return lambda _: file

    def _here(self, spec: DataSpec) -> bool:
        """Whether the data set is on this machine, intact. It is pulled first if remote storage has it."""
        name = f"data/{spec.name}"
        if not self._holds(spec, unchanged) and not self._copies.pull(name):
            return False
        self._copies.touch(name)
        return self._holds(spec, unchanged)

    def _agrees(self, spec: DataSpec) -> bool:
        return self._copies.agrees(f"data/{spec.name}")

    def _push(self, name: str) -> bool:
        return self._copies.push(name)

    def _held(self, name: str) -> AbstractContextManager[None]:
        return self._copies.held(name)

    def _put_aside(self, spec: DataSpec) -> None:
        if self._holds(spec, unchanged):  # its bytes match its record, but they are no data set
            self._copies.reject(f"data/{spec.name}")
        shutil.rmtree(self.path(spec), ignore_errors=True)
