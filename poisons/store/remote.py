"""What a store needs of remote storage, which machines share in place of a folder; checkpoints kept there."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from poisons.durable import sha256
from trainers.checkpoint import Checkpoint
from trainers.stored import DamagedError


class RemoteStorage(Protocol):
    """Bytes by name, such as `data/<name>/record.json`. Every method raises OSError if the storage does not
    answer."""

    def read(self, name: str) -> bytes | None: ...
    def read_all(self, names: list[str]) -> dict[str, bytes | None]: ...
    def write(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def upload(self, file: Path, name: str) -> None: ...
    def download(self, name: str, file: Path) -> bool: ...
    def remove(self, name: str) -> None: ...
    def holders(self, folder: str, name: str) -> set[str]: ...


@dataclass
class RemoteCheckpoint(Checkpoint):
    """A checkpoint that a killed training finds on any machine: each save also uploads it as `name`, with its
    digest beside it.

    Uploads take at most about a tenth of the time: `every` grows with the duration of an upload.
    """

    remote: RemoteStorage = field(kw_only=True)
    name: str = field(kw_only=True)

    def save(self, state: dict[str, Any], *, owner: str) -> None:
        super().save(state, owner=owner)
        if not self.path.exists():
            return
        start = time.monotonic()
        try:
            self.remote.upload(self.path, self.name)
            self.remote.write(self._digest_name, sha256(self.path).encode())
        except OSError as error:
            text = f"no checkpoint could be kept for other machines: {error}"
            if text not in self.warnings:
                self.warnings.append(text)
        self._last = time.monotonic()
        self.every = max(self.every, 10 * (self._last - start))

    def load(self, *, owner: str) -> dict[str, Any] | None:
        """The last uploaded state, or else the last one on this machine. Raises OSError if the storage does
        not answer."""
        if self.remote.read(self._digest_name) not in (None, self._here()):
            self._download()
        return super().load(owner=owner)

    def remove(self) -> None:
        """Remove it here and remotely. If the storage does not answer, its copy stays, unused."""
        super().remove()
        names = (self._digest_name, self.name)  # the digest first: without it no checkpoint counts
        try:
            for name in names:
                self.remote.remove(name)
        except OSError as error:
            self.warnings.append(f"the checkpoint was not removed: {error}")

    def _here(self) -> bytes | None:
        """The digest of the file on this machine; None if it cannot be read."""
        with suppress(OSError, DamagedError):
            return sha256(self.path).encode()
        return None

    def _download(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.download.tmp")
        try:
            if self.remote.download(self.name, temporary):
                temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def _digest_name(self) -> str:
        return f"{self.name}.sha256"
