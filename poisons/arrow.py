"""Tensors, and images among them, as Arrow IPC files: one record batch, so that every column lies in one
piece and is used from a memory map, however long it is."""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainers.images import Images
from trainers.spec import InputError

# MAP_NORESERVE (named from Python 3.13): a file may be larger than the memory, since nobody writes its pages
PRIVATE = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)


def write(path: Path, columns: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Tensors of one length on the host, a column each (a row of it is a fixed-size list), and JSON beside
    them."""
    kinds = {name: [tensor.numpy().dtype.name, *tensor.shape[1:]] for name, tensor in columns.items()}
    arrays = [_array(tensor) for tensor in columns.values()]
    fields = [pa.field(name, array.type) for name, array in zip(columns, arrays, strict=True)]
    meta = {"opsctl": json.dumps({"kinds": kinds, "told": dict(told)}, allow_nan=False)}
    schema = pa.schema(fields, metadata=meta)
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)  # a column may have more than 2³¹ values
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` was given. The tensors are a memory map of the file, private to this process: what is
    written into them never reaches it."""
    tensors, told, _ = _mapped(path)
    return tensors, told


def read_images(path: Path) -> StoredImages:
    """The images that a Writer wrote; no pixel is read before it is asked for."""
    tensors, told, offsets = _mapped(path)
    return StoredImages(
        tensors["image"], tensors["label"].clone(), told["num_classes"], path, offsets["image"]
    )


def read_index(path: Path) -> Tensor:
    """Where in the source each image stands; int64 N."""
    return read(path)[0]["index"].clone()


def in_use(path: Path) -> bool:
    """Whether anyone on this machine has the file open as a memory map."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@dataclass(frozen=True)
class StoredImages(Images):
    """Images whose pixels are a private memory map of `file`. Their chunks are read from the file, so that
    going over them takes the memory of one chunk; pickled, they are their path."""

    file: Path
    offset: int

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Images]:
        stop = len(self) if stop is None else min(stop, len(self))
        row = math.prod(self.shape)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.offset + start * row)
            for at in range(start, stop, size):
                end = min(at + size, stop)
                yield Images(_exactly(stream, (end - at, *self.shape)), self.y[at:end], self.num_classes)

    def __reduce__(self) -> Any:
        return read_images, (self.file,)


class Writer:
    """Writes images as they come, in memory of one chunk: columns image (uint8, C·H·W values a row), label
    and index (int64: the row in the source).

    Until `close`, pixels wait in a file beside `path`, so the disk needs room for them twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.waiting = path, path.with_name(path.name + ".pixels")
        self.labels: list[Tensor] = []
        self.index: list[Tensor] = []
        self.shape: tuple[int, int, int] | None = None
        self.num_classes = 0

    def __enter__(self) -> Self:
        self.stream = self.waiting.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.waiting.unlink(missing_ok=True)

    def append(self, images: Images, index: Tensor) -> None:
        """The next images; `index` int64 says where in the source they stand."""
        if self.shape not in (None, images.shape):
            raise InputError(f"images of one data set have one shape, found {self.shape} and {images.shape}")
        self.shape, self.num_classes = images.shape, images.num_classes
        self.stream.write(images.x.cpu().contiguous().numpy().data)
        self.labels.append(images.y.cpu().clone())
        self.index.append(index.cpu())

    def close(self) -> None:
        """Put it all into one file. Raises OSError if it does not read back as it was written."""
        self.stream.close()
        if self.shape is None:
            raise InputError("the data set has no images")
        label = torch.cat(self.labels)
        pixels = np.memmap(self.waiting, np.uint8, "r+", shape=(len(label), *self.shape))
        columns = {"image": torch.from_numpy(pixels), "label": label, "index": torch.cat(self.index)}
        write(self.path, columns, {"num_classes": self.num_classes})
        rows = max(1, 2**24 // math.prod(self.shape))
        for at, chunk in enumerate(read_images(self.path).chunks(rows)):
            if not np.array_equal(chunk.x.numpy(), pixels[at * rows : (at + 1) * rows]):
                raise OSError(f"{self.path} does not read back as it was written")


def _array(tensor: Tensor) -> pa.Array:
    flat = pa.array(tensor.contiguous().numpy().reshape(-1))
    return flat if tensor.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, math.prod(tensor.shape[1:]))


def _mapped(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, int]]:
    """The columns, the JSON, and where in the file each column begins."""
    with path.open("rb") as file:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for `in_use`; the map holds it, and its file
        pages = mmap.mmap(file.fileno(), 0, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    _expect(pages, "MADV_RANDOM")  # or the disk would read megabytes around the few pages that are looked at
    whole = pa.py_buffer(pages)
    reader = pa.ipc.open_file(whole)
    meta: dict[str, Any] = json.loads(reader.schema.metadata[b"opsctl"])
    batch = reader.get_batch(0)
    tensors, offsets = {}, {}
    for name, (kind, *shape) in meta["kinds"].items():
        column = batch.column(name).values if shape else batch.column(name)
        offsets[name] = column.buffers()[1].address - whole.address
        values = np.frombuffer(pages, kind, batch.num_rows * math.prod(shape), offsets[name])
        tensors[name] = torch.from_numpy(values.reshape(batch.num_rows, *shape))
    _expect(pages, "MADV_NORMAL")
    return tensors, meta["told"], offsets


def _expect(pages: mmap.mmap, advice: str) -> None:
    """Tell the system how pages will be read, where it can be told."""
    if hasattr(mmap, advice):
        pages.madvise(getattr(mmap, advice))


def _exactly(stream: Any, shape: tuple[int, ...]) -> Tensor:
    """The next bytes of a file as uint8 of this shape; OSError if it ends before."""
    x = np.empty(shape, np.uint8)
    rest = x.reshape(-1).data
    while rest.nbytes:
        if not (n := stream.readinto(rest)):
            raise OSError(f"{stream.name} ends too early")
        rest = rest[n:]
    return torch.from_numpy(x)
