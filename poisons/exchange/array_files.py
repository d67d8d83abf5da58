"""Arrays in .npy, .npz and .pt files. Headers give dtype and shape before any value is read; pickles are
never read."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from trainers.spec import InputError
from trainers.tensor_files import check_pickle, read_tensors

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
STEP = 2**24  # bytes of an array read at a time
MUCH = 2**30  # values that may be read to get a few rows among them
HEADER = 2**16  # bytes in the header of an array, at most


class Held(Protocol):
    """An array in a file; its dtype and shape are known before it is read."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, rows: Tensor | None = None) -> Tensor:
        """The array, or these rows of it (int64, ascending)."""


@dataclass(frozen=True)
class InMemory:
    """An array in memory, or a memory map."""

    tensor: Tensor

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def read(self, rows: Tensor | None = None) -> Tensor:
        if rows is None or len(rows) == len(self.tensor):
            return self.tensor
        return self.tensor[: len(rows)] if int(rows[-1]) == len(rows) - 1 else self.tensor[rows]


@dataclass(frozen=True)
class _Header:
    """The header of a numpy array; `begins` is the offset of its values."""

    kind: np.dtype[Any]
    shape: tuple[int, ...]
    by_column: bool
    begins: int

    @classmethod
    def read(cls, path: Path, what: str, stream: IO[bytes], size: int) -> _Header:
        """Read the header of an array in a stream of `size` bytes. InputError if it is no array, needs
        pickle, or has another size than it claims."""
        head = io.BytesIO(stream.read(HEADER))
        try:
            version = np.lib.format.read_magic(head)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, by_column, kind = readers[version](head)
        except (ValueError, KeyError) as error:
            if head.getvalue().startswith(b"\x80"):
                raise InputError(needs_pickle(path)) from None
            reason = (str(error).splitlines() or [""])[0][:200]
            raise InputError(
                f"{path}: {what} is not a numpy array ({reason}); was it copied completely?"
            ) from None
        if kind.hasobject:
            raise InputError(needs_pickle(path))
        if math.prod(shape) * kind.itemsize != size - head.tell():
            raise InputError(
                f"{path}: {what} claims the shape {shape} but does not hold that many values; "
                "was it copied completely?"
            )
        return cls(kind, shape, by_column, head.tell())


@dataclass(frozen=True)
class _Member:
    """An array in a .npz file, or (without a name) in a .npy file."""

    path: Path
    name: str | None
    header: _Header

    @property
    def dtype(self) -> str:
        return str(self.header.kind.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    def read(self, rows: Tensor | None = None) -> Tensor:
        if self.name is None or not self.shape:
            return InMemory(_native(self._whole())).read(rows)
        wanted = np.arange(self.shape[0]) if rows is None else rows.numpy()
        last, row = int(wanted[-1]) + 1, math.prod(self.shape[1:])
        if (self.shape[0] if self.header.by_column else last) * row > max(MUCH, 64 * len(wanted) * row):
            raise InputError(
                f"{self.path} holds {self.shape[0]:,} rows, of which {len(wanted):,} are needed: store only "
                "these, and their rows in the source as `index`"
            )
        if self.header.by_column:
            return InMemory(_native(self._whole())).read(rows)
        return _native(self._rows(wanted))

    def _rows(self, wanted: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Some rows of a member, read in steps; nothing after the last row is read."""
        found = np.empty((len(wanted), *self.shape[1:]), self.header.kind)
        row = self.header.kind.itemsize * math.prod(self.shape[1:])
        step, at, done = max(1, STEP // max(1, row)), 0, 0
        with self._values() as stream:
            while done < len(wanted):
                some = wanted[done : np.searchsorted(wanted, at + step)] - at
                part = np.frombuffer(stream.read(min(step, self.shape[0] - at) * row), self.header.kind)
                found[done : done + len(some)] = part.reshape(-1, *self.shape[1:])[some]
                at, done = at + step, done + len(some)
            if at >= self.shape[0]:
                stream.read(1)  # so that the checksum is verified
        return found

    def _whole(self) -> np.ndarray[Any, Any]:
        """The whole array; for a .npy file a private memory map, which torch accepts without a warning."""
        order: Literal["F", "C"] = "F" if self.header.by_column else "C"
        kind, shape = self.header.kind, self.shape
        if self.name is None and 0 not in shape:
            return np.memmap(self.path, kind, "c", self.header.begins, shape, order)
        whole = np.empty(shape, kind, order=order)
        if self.name is None:
            return whole
        flat, at = whole.reshape(-1, order="F").view(np.uint8).data, 0
        with self._values() as stream:
            while at < len(flat) and (n := stream.readinto(flat[at : at + STEP])):
                at += n
        return whole

    @contextmanager
    def _values(self) -> Iterator[Any]:
        """A stream of the member's values."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as stream:
            stream.read(self.header.begins)
            yield stream


def _npy(path: Path, *_: Sequence[str]) -> dict[str, Held]:
    with path.open("rb") as stream:
        return {"": _Member(path, None, _Header.read(path, "it", stream, path.stat().st_size))}


def _npz(path: Path, known: Sequence[str], beside: Sequence[str]) -> dict[str, Held]:
    found: dict[str, Held] = {}
    with zipfile.ZipFile(path) as archive:
        sizes = {
            info.filename: info.file_size for info in archive.infolist() if info.filename.endswith(".npy")
        }
        names = [name.removesuffix(".npy") for name in sizes]
        wanted = (*known, *beside) if any(name in names for name in known) else names
        for name, member in zip(names, sizes, strict=True):
            if name in wanted:
                with archive.open(member) as stream:
                    header = _Header.read(path, f"{member} in it", stream, sizes[member])
                found[name] = _Member(path, name, header)
    return found


def _torch(path: Path, *_: Sequence[str]) -> dict[str, Held]:
    with path.open("rb") as stream:
        is_archive = stream.read(2) == b"PK"
    if is_archive:
        found = read_tensors(path, links=True)
    else:  # the format before torch 1.6: four pickles, then the numbers
        with path.open("rb") as stream:
            for _pickle in range(4):
                check_pickle(stream)
        found = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(found, Tensor):
        return {"": InMemory(found.detach())}
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}; expected a tensor, or a dict of tensors")
    return {str(name): InMemory(value.detach()) for name, value in found.items() if isinstance(value, Tensor)}


def _native(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor from an array; copied only if its byte order is not native."""
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


READERS: dict[str, Callable[[Path, Sequence[str], Sequence[str]], dict[str, Held]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
}


def arrays_of(path: Path, known: Sequence[str], beside: Sequence[str]) -> dict[str, Held]:
    """The arrays in a file by name; an unnamed one is called "". From a .npz file with any of the `known`
    names only those and the ones in `beside` are returned. Raises InputError, and nearly any error for a
    damaged file."""
    return READERS[path.suffix.lower()](path, known, beside)


def needs_pickle(path: Path) -> str:
    """A message: why a file that needs pickle is not read."""
    return (
        f"{path} is not a plain array: it needs pickle, which can run any code, so it is not read; store the "
        "numbers alone, with np.save of an array or torch.save of a tensor"
    )
