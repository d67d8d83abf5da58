"""What a store needs of the place that machines share, where that is no folder; checkpoints kept there."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from poisons.durable import sha256
from trainers.checkpoint import Checkpoint
from trainers.stored import DamagedError


class Shelf(Protocol):
    """Bytes by name, such as `data/<name>/record.json`. Every method raises OSError if it does not answer."""

    def read(self, name: str) -> bytes | None: ...
    def read_all(self, names: list[str]) -> dict[str, bytes | None]: ...
    def write(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def upload(self, file: Path, name: str) -> None: ...
    def download(self, name: str, file: Path) -> bool: ...
    def remove(self, name: str) -> None: ...
    def holders(self, folder: str, name: str) -> set[str]: ...


@dataclass
class ShelvedCheckpoint(Checkpoint):
    """A checkpoint that a killed training finds again on any machine: each is uploaded as it is saved, as
    `name` on the shelf, with its digest beside it.

    Uploads take about a tenth of the time at most: `every` grows with how long one takes.
    """

    shelf: Shelf | None = None
    name: str = ""

    def save(self, state: dict[str, Any], *, owner: str) -> None:
        super().save(state, owner=owner)
        if self.shelf is None or not self.path.exists():
            return
        start = time.monotonic()
        try:
            self.shelf.upload(self.path, self.name)
            self.shelf.write(self._mark, sha256(self.path).encode())
        except OSError as error:
            text = f"no checkpoint could be kept for other machines: {error}"
            if text not in self.warnings:
                self.warnings.append(text)
        self._last = time.monotonic()
        self.every = max(self.every, 10 * (self._last - start))

    def load(self, *, owner: str) -> dict[str, Any] | None:
        """The last one that was uploaded, or else the last on this machine. Raises OSError if the shelf does
        not answer."""
        mark = None if self.shelf is None else self.shelf.read(self._mark)
        if self.shelf is not None and mark not in (None, self._here()):
            self._download(self.shelf)
        return super().load(owner=owner)

    def remove(self) -> None:
        """Here and on the shelf. A shelf that does not answer keeps it, which harms nobody."""
        super().remove()
        if self.shelf is not None:
            with_mark = (self._mark, self.name)  # the mark first: without it nobody looks for the other
            try:
                for name in with_mark:
                    self.shelf.remove(name)
            except OSError as error:
                self.warnings.append(f"the checkpoint was not removed: {error}")

    def _here(self) -> bytes | None:
        """The digest of the file on this machine; None if there is none that can be read."""
        with suppress(OSError, DamagedError):
            return sha256(self.path).encode()
        return None

    def _download(self, shelf: Shelf) -> None:
        temporary = self.path.with_name(f".{self.path.name}.download.tmp")
        try:
            if shelf.download(self.name, temporary):
                temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def _mark(self) -> str:
        return f"{self.name}.sha256"
