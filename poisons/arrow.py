"""Images as an Arrow IPC file: written in bounded batches, opened by memory map, copied out once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from trainers.images import Images

ROWS = 4096  # per record batch


def write(path: Path, images: Images, index: torch.Tensor) -> None:
    """Columns: image (uint8, C·H·W values a row), label (int64), index (int64: the row in the source)."""
    c, h, w = images.shape
    size = c * h * w
    meta = {"opsctl": json.dumps({"shape": [c, h, w], "num_classes": images.num_classes})}
    fields = [("image", pa.list_(pa.uint8(), size)), ("label", pa.int64()), ("index", pa.int64())]
    schema = pa.schema(fields, metadata=meta)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(images), ROWS):
            rows = slice(start, start + ROWS)
            pixels = pa.array(images.x[rows].cpu().contiguous().numpy().reshape(-1))
            columns = [
                pa.FixedSizeListArray.from_arrays(pixels, size),
                pa.array(images.y[rows].cpu().numpy()),
                pa.array(index[rows].cpu().numpy()),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def read(path: Path) -> Images:
    """The images. The map is read-only, so the pixels are copied out of it, once."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        told = json.loads(reader.schema.metadata[b"opsctl"])
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        x = np.concatenate([b.column("image").flatten().to_numpy() for b in batches]).reshape(
            -1, *told["shape"]
        )
        y = np.concatenate([b.column("label").to_numpy() for b in batches])
    return Images(torch.from_numpy(x), torch.from_numpy(y), told["num_classes"])


def read_index(path: Path) -> torch.Tensor:
    """Where in the source each image stands; int64 N. The pixels are not touched."""
    with pa.memory_map(str(path)) as source:
        column = pa.ipc.open_file(source).read_all().column("index")
        return torch.from_numpy(column.to_numpy().copy())
