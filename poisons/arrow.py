"""Tensors and images as Arrow IPC files with one record batch, so that every column is contiguous and can be
memory-mapped, whatever its length."""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from poisons.records import Text
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile, open_file

# MAP_NORESERVE (named since Python 3.13): a file may be larger than memory, since its pages are not written
PRIVATE = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)


DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
MAGIC = b"ARROW1\0\0"  # how the file begins; after it the file is a stream of messages


class Metadata(TypedDict):
    """The metadata in the schema: the dtype and row shape of each column, and the writer's JSON values."""

    kinds: dict[Text, Annotated[list[str | int], Field(min_length=1, max_length=8)]]
    told: dict[str, Any]


class ImagesRecord(TypedDict):
    """The JSON values stored with images."""

    num_classes: Annotated[int, Field(ge=1, le=2**31)]


METADATA = JsonFile[dict[str, Any]](Metadata)
OF_IMAGES = JsonFile[dict[str, Any]](ImagesRecord)


def write(path: Path, columns: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write host tensors of equal length, one column each (a row is a fixed-size list), with JSON
    `values`."""
    kinds = {name: [tensor.numpy().dtype.name, *tensor.shape[1:]] for name, tensor in columns.items()}
    arrays = [_array(tensor) for tensor in columns.values()]
    fields = [pa.field(name, array.type) for name, array in zip(columns, arrays, strict=True)]
    meta = {"opsctl": json.dumps({"kinds": kinds, "told": dict(values)}, allow_nan=False)}
    schema = pa.schema(fields, metadata=meta)
    options = pa.ipc.IpcWriteOptions(allow_64bit=True)  # a column may have more than 2³¹ values
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and values that `write` wrote. The tensors are a private memory map: writing into them does
    not change the file. Raises DamagedError for any other file, and OSError."""
    tensors, values, _ = _mapped(path)
    return tensors, values


def read_images(path: Path) -> StoredImages:
    """The images that a Writer wrote; pixels are read lazily. Raises DamagedError for any other file, and
    OSError."""
    tensors, values, offsets = _mapped(path)
    check_columns(tensors, {"image": ("uint8", 4), "label": ("int64", 1), "index": ("int64", 1)})
    num_classes = OF_IMAGES.check(values)["num_classes"]
    if not len(tensors["label"]):
        raise DamagedError("it holds no images")
    if int(tensors["index"].min()) < 0:
        raise DamagedError("index: a row of the source is negative")
    try:
        return StoredImages(tensors["image"], tensors["label"].clone(), num_classes, path, offsets["image"])
    except InputError as error:
        raise DamagedError(str(error)) from None


def read_index(path: Path) -> Tensor:
    """The row in the source of each image; int64 N. Raises what `read_images` does."""
    tensors, _ = read(path)
    check_columns(tensors, {"image": ("uint8", 4), "label": ("int64", 1), "index": ("int64", 1)})
    return tensors["index"].clone()


def check_columns(columns: Mapping[str, Tensor], expected: Mapping[str, tuple[str, int]]) -> None:
    """DamagedError unless exactly the expected columns are there, with these dtypes (`int8 or int16`) and
    numbers of dimensions."""
    if columns.keys() != expected.keys():
        found = ", ".join(columns) or "none"
        raise DamagedError(f"expected the columns {', '.join(expected)}, found {found}"[:300])
    for name, (dtype, dimensions) in expected.items():
        found = _dtype(columns[name])
        if found not in dtype.split(" or ") or columns[name].ndim != dimensions:
            shape = tuple(columns[name].shape)
            raise DamagedError(f"{name}: expected {dtype} of {dimensions} dimensions, found {found} {shape}")


def in_use(path: Path) -> bool:
    """Whether a process on this machine has the file memory-mapped."""
    try:
        file = open_file(path)
    except DamagedError:  # not a regular file, so not mapped by any process
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@dataclass(frozen=True)
class StoredImages(Images):
    """Images whose pixels are a private memory map of `file`. Chunks are read from the file, so that
    iterating takes the memory of one chunk. They are pickled as their path."""

    file: Path
    offset: int

    def chunks(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Images]:
        stop = len(self) if stop is None else min(stop, len(self))
        row = math.prod(self.shape)
        with open_file(self.file) as stream:
            stream.seek(self.offset + start * row)
            for at in range(start, stop, size):
                end = min(at + size, stop)
                x = _exactly(stream, self.file, (end - at, *self.shape))
                yield Images(x, self.y[at:end], self.num_classes)

    def __reduce__(self) -> Any:
        return read_images, (self.file,)


class Writer:
    """Writes images chunk by chunk: columns image (uint8, C·H·W values a row), label and index (int64: the
    row in the source).

    Until `close`, pixels are kept in a temporary file beside `path`, so the disk needs twice their size.
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
        """Append images; `index` int64 are their rows in the source."""
        if self.shape not in (None, images.shape):
            raise InputError(f"images of one data set have one shape, found {self.shape} and {images.shape}")
        self.shape, self.num_classes = images.shape, images.num_classes
        self.stream.write(images.x.cpu().contiguous().numpy().data)
        self.labels.append(images.y.cpu().clone())
        self.index.append(index.cpu())

    def close(self) -> None:
        """Write the final file. Raises OSError if it does not read back as written."""
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
    """The columns, the JSON values, and the offset of each column in the file. Raises DamagedError, and
    OSError."""
    with open_file(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise DamagedError("it is empty")
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(
                file, fcntl.LOCK_SH | fcntl.LOCK_NB
            )  # for `in_use`; the map keeps it, and the file, open
        pages = mmap.mmap(file.fileno(), 0, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    _expect(pages, "MADV_RANDOM")  # else the kernel reads ahead megabytes around the few pages needed
    whole = pa.py_buffer(pages)
    batch = _record_batch(whole)
    metadata = METADATA.read((batch.schema.metadata or {}).get(b"opsctl", b""))
    kinds: dict[str, list[Any]] = metadata["kinds"]
    if list(kinds) != batch.schema.names:
        raise DamagedError("its columns are not those that its metadata names")
    tensors, offsets = {}, {}
    for name, (dtype, *shape) in kinds.items():
        values, offsets[name] = _column(pages, whole, batch, name, dtype, shape)
        tensors[name] = torch.from_numpy(values.reshape(batch.num_rows, *shape))
    _expect(pages, "MADV_NORMAL")
    return tensors, metadata["told"], offsets


def _record_batch(whole: pa.Buffer) -> pa.RecordBatch:
    """The only record batch of a file. Nothing is copied or decompressed."""
    if whole.size < len(MAGIC) or whole.slice(0, len(MAGIC)).to_pybytes() != MAGIC:
        raise DamagedError("it is no Arrow file")
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(whole.slice(len(MAGIC))))
        schema = pa.ipc.read_schema(messages.read_next_message())
        message = messages.read_next_message()
        if message.type != "record batch" or _is_compressed(message.metadata):
            raise DamagedError("it does not hold an uncompressed record batch")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate()
        with suppress(StopIteration):
            messages.read_next_message()
            raise DamagedError("it holds more than one record batch")
    except DamagedError:
        raise
    except StopIteration:
        raise DamagedError("it ends before its record batch") from None
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, struct.error) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DamagedError(f"it is no Arrow file ({type(error).__name__}: {reason[:200]})") from None
    return batch


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether the buffers of a record batch are compressed, according to its message (a FlatBuffer; see
    Arrow's Message.fbs and Schema.fbs). pyarrow does not expose this, and would decompress as much as the
    file claims."""
    data = metadata.to_pybytes()

    def field(table: int, number: int) -> int | None:
        """The position of a field of a table, or None if it is omitted."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        (size,) = struct.unpack_from("<H", data, vtable)
        entry = 4 + 2 * number
        offset = struct.unpack_from("<H", data, vtable + entry)[0] if entry < size else 0
        return table + offset if offset else None

    (message,) = struct.unpack_from("<I", data, 0)
    if (header := field(message, 2)) is None:
        raise DamagedError("its record batch has no header")
    (batch,) = struct.unpack_from("<I", data, header)
    return field(header + batch, 3) is not None


def _column(
    pages: mmap.mmap, whole: pa.Buffer, batch: pa.RecordBatch, name: str, dtype: Any, shape: list[Any]
) -> tuple[np.ndarray[Any, Any], int]:
    """The values of a column as a flat array, and their offset in the file."""
    if dtype not in DTYPES:
        raise DamagedError(f"{name[:80]}: its dtype is {str(dtype)[:40]!r}, not one of {', '.join(DTYPES)}")
    if any(not isinstance(side, int) or isinstance(side, bool) or not 0 < side < 2**40 for side in shape):
        raise DamagedError(f"{name[:80]}: its shape is not made of positive whole numbers")
    array, row = batch.column(name), math.prod(shape)
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    if array.type != (pa.list_(kind, row) if shape and row < 2**31 else kind) or array.null_count:
        raise DamagedError(f"{name[:80]}: the column is {array.type}, which is not as its metadata says")
    buffer = (array.values if shape else array).buffers()[1]
    size = batch.num_rows * row * np.dtype(dtype).itemsize
    offset = 0 if buffer is None else buffer.address - whole.address
    if array.offset or (buffer is None and size) or not 0 <= offset <= offset + size <= whole.size:
        raise DamagedError(f"{name[:80]}: the column does not lie inside the file")
    return np.frombuffer(pages, dtype, batch.num_rows * row, offset), offset


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _expect(pages: mmap.mmap, advice: str) -> None:
    """Advise the kernel on the access pattern, where that is supported."""
    if hasattr(mmap, advice):
        pages.madvise(getattr(mmap, advice))


def _exactly(stream: BufferedReader, file: Path, shape: tuple[int, ...]) -> Tensor:
    """The next bytes of a file as uint8 of this shape; OSError if the file is too short."""
    x = np.empty(shape, np.uint8)
    rest = x.reshape(-1).data
    while rest.nbytes:
        if not (n := stream.readinto(rest)):
            raise OSError(f"{file} ends too early")
        rest = rest[n:]
    return torch.from_numpy(x)
