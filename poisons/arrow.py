"""Images as an Arrow IPC file: one record batch, so that pixels lie in one piece and are used from a memory
map, however many there are."""

from __future__ import annotations

import json
import math
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trainers.images import Images

LAYOUT = 2  # 2: one record batch
# MAP_NORESERVE (named from Python 3.13): a file may be larger than the memory, since nobody writes its pages
PRIVATE = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)


def write(path: Path, images: Images, index: torch.Tensor) -> None:
    """Columns: image (uint8, C·H·W values a row), label (int64), index (int64: the row in the source)."""
    size = images.x[0].numel()
    meta = {"opsctl": json.dumps({"shape": images.shape, "num_classes": images.num_classes})}
    fields = [("image", pa.list_(pa.uint8(), size)), ("label", pa.int64()), ("index", pa.int64())]
    schema = pa.schema(fields, metadata=meta)
    pixels = pa.array(images.x.cpu().contiguous().numpy().reshape(-1))
    columns = [
        pa.FixedSizeListArray.from_arrays(pixels, size),
        pa.array(images.y.cpu().numpy()),
        pa.array(index.cpu().numpy()),
    ]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def read(path: Path) -> Images:
    """The images; their pixels are a memory map of the file, private to this process: what is written into
    them never reaches it."""
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        reader = pa.ipc.open_file(whole)
        told: dict[str, Any] = json.loads(reader.schema.metadata[b"opsctl"])
        batch = reader.get_batch(0)
        y = batch.column("label").to_numpy().copy()
        offset = batch.column("image").flatten().buffers()[1].address - whole.address
    shape = (len(y), *told["shape"])
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, flags=PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    x = np.frombuffer(pages, np.uint8, math.prod(shape), offset).reshape(shape)
    return Images(torch.from_numpy(x), torch.from_numpy(y), told["num_classes"])


def read_index(path: Path) -> torch.Tensor:
    """Where in the source each image stands; int64 N. The pixels are not touched."""
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).read_all().column("index")
        return torch.from_numpy(column.to_numpy().copy())
