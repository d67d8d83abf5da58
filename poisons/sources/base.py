"""The contract of sources: clean training and test images, identified by the fingerprint of their bytes, not
by their location."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import fsspec
import torch
from fsspec.core import url_to_fs
from torch import Tensor

from poisons.records import Skipped as Skipped
from trainers.images import Extent as Extent
from trainers.images import Images
from trainers.spec import InputError, Plugin
from trainers.stored import DamagedError, open_file

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Reading:
    """An opened split of a source: labels (int64 N) are loaded, pixels are read on demand. `take(rows)`
    (int64, ascending) returns the images of these rows.

    `class_names` are the names of labels 0, 1, ... and `file_names` those of the rows, as in the source's
    tree (`cat/001.png`), if the source has them.
    """

    y: Tensor
    num_classes: int
    take: Callable[[Tensor], Images]
    class_names: tuple[str, ...] = ()
    file_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """Information on a split besides its images: files that are not read, and notes on how images are
    read."""

    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line per entry."""
        return [_line(group) for group in self.skipped] + list(self.notes)


def _line(group: Skipped) -> str:
    more = ", ..." if group["count"] > len(group["examples"]) else ""
    return f"{group['count']:,} not read ({group['reason']}): {', '.join(group['examples'])}{more}"


class Source(Plugin, family="source", package="poisons.sources"):
    """Clean images. Fields say where they are; the key contains only `fingerprint`, which identifies their
    content."""

    locators: ClassVar[tuple[str, ...]] = ()  # fields that hold a path or URL
    fingerprint: str | None = None
    """Identity of the images' bytes, checked if given; null computes it."""

    @abstractmethod
    def measure(self) -> str:
        """The fingerprint of everything that determines pixels and labels: the bytes, and how they are
        read."""

    @abstractmethod
    def open(self, split: Split) -> Reading:
        """The images of a split, in a fixed order. Opening it and taking images raise InputError, naming the
        file or row that cannot be used."""

    def extent(self, split: Split) -> Extent:
        """The extent of a split, from its labels and one image; downloads nothing. Raises what `open`
        does."""
        reading = self.open(split)
        return Extent(len(reading.y), reading.take(torch.arange(1)).shape, reading.num_classes)

    def survey(self, split: Split) -> Survey:
        """What plans and cards list about a split; downloads nothing. Raises what `open` does."""
        return Survey()

    def load(self, split: Split) -> Images:
        """All the images of a split, in memory."""
        reading = self.open(split)
        return reading.take(torch.arange(len(reading.y)))

    def present(self) -> bool:
        """Whether the images can be read without a download."""
        self.measure()
        return True

    def pinned(self) -> Self:
        """A copy with the fingerprint filled in and absolute paths, so that every machine reads the same
        images."""
        found = self.measure()
        if self.fingerprint not in (None, found):
            raise InputError(
                f"source {self.kind!r} has the fingerprint {found}, but the spec expects "
                f"{self.fingerprint}; correct the path, or drop `fingerprint` to accept these data"
            )
        places = {name: absolute(getattr(self, name)) for name in self.locators}
        return self.model_copy(update={"fingerprint": found, **places})

    def identity(self) -> Any:
        if self.fingerprint is None:
            raise ValueError(f"source {self.kind!r} has no key before it is pinned")
        head = {"version": self.version} if self.version > 1 else {}
        return {"kind": self.kind, "fingerprint": self.fingerprint, **head}


def in_memory(images: Images) -> Reading:
    """A Reading of images in memory."""
    return Reading(images.y, images.num_classes, images.take)


def absolute(place: str) -> str:
    """A local path made absolute; a URL as it is."""
    fs, path = _opened(place)
    return path if "file" in _protocols(fs) else place


def find(place: str) -> list[str]:
    """The files that a path, URL or glob names, sorted, as fsspec URLs. InputError if there are none."""
    fs, path = _opened(place)
    try:
        found = [path] if fs.isfile(path) else sorted(f for f in fs.glob(path) if fs.isfile(f))
    except Exception as error:  # noqa: BLE001  (each of fsspec's many file systems has errors of its own)
        raise InputError(f"cannot read {place}: {type(error).__name__}: {error}") from None
    if not found:
        raise InputError(f"no file at {place} (looked from {absolute('.')}), or it cannot be reached")
    return [fs.unstrip_protocol(f) for f in found]


def _opened(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return url_to_fs(str(Path(place).expanduser()) if place.startswith("~") else place)
    except (ImportError, ValueError) as error:
        raise InputError(f"{place}: {error}") from None


def digest(files: Iterable[str | Path], *how: str) -> str:
    """A fingerprint of the files' bytes in order, and of the words that describe how they are read; 32
    hexadecimal digits. A `str` is a URL or a path for fsspec."""
    return combine(map(file_digest, files), *how)


def combine(digests: Iterable[bytes], *how: str) -> str:
    """The `digest` of files with these SHA-256 digests."""
    whole = hashlib.sha256("\0".join(how).encode(errors="surrogateescape"))  # a file's name may be any bytes
    for found in digests:
        whole.update(found)
    return whole.hexdigest()[:32]


def file_digest(file: str | Path) -> bytes:
    """The SHA-256 digest of a file's bytes. InputError if it cannot be read."""
    try:
        with open_file(file, links=True) if isinstance(file, Path) else fsspec.open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except (OSError, DamagedError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
