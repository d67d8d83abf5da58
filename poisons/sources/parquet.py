"""Parquet files in the Hugging Face layout for images: a column of {bytes, path} and a column of
whole-number labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from poisons.sources.base import Source, Split, digest, find
from poisons.sources.decode import decode
from trainers.images import Images
from trainers.spec import InputError


class Parquet(Source, kind="parquet"):
    """`train` and `test`: a path, an fsspec URL (`s3://`, `https://`, `hf://`) or a glob; files are read in
    sorted order."""

    locators = ("train", "test")
    train: str
    test: str
    image: str = "img"
    label: str = "label"

    def measure(self) -> str:
        train, test = find(self.train), find(self.test)
        return digest(train + test, self.image, self.label, f"{len(train)} for training")

    def load(self, split: Split) -> Images:
        known = (
            max((int(labels.max()) for f in find(self.train) if len(labels := self._labels(f))), default=-1)
            + 1
        )
        files = find(getattr(self, split))
        labels = torch.cat([self._labels(file, known) for file in files])
        x = decode(row for file in files for row in _encoded(file, _column(file, self.image)))
        return Images(x, labels, known)

    def _labels(self, file: str, known: int | None = None) -> torch.Tensor:
        column = _column(file, self.label)
        if not pa.types.is_integer(column.type):
            raise InputError(f"{file}: labels must be whole numbers, found {column.type}")
        labels = column.to_pylist()
        for row, value in enumerate(labels):
            if value is None or value < 0:
                raise InputError(f"{file}, row {row}: the label is {'missing' if value is None else value}")
            if known is not None and value >= known:
                raise InputError(f"{file}, row {row}: label {value}, but training labels end at {known - 1}")
        return torch.tensor(labels, dtype=torch.int64)


def _column(file: str, name: str) -> pa.ChunkedArray:
    try:
        with fsspec.open(file, "rb") as stream:
            table = pq.ParquetFile(stream)
            if name not in table.schema_arrow.names:
                raise InputError(
                    f"{file} has no column {name!r}; it has: {', '.join(table.schema_arrow.names)}"
                )
            return table.read(columns=[name]).column(name)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({error})") from None


def _encoded(file: str, column: Any) -> Iterator[tuple[str, bytes]]:
    for row, cell in enumerate(column):
        value = cell.as_py()
        raw = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(raw, bytes):
            raise InputError(
                f"{file}, row {row}: no image bytes; "
                "expected a struct with `bytes`, as Hugging Face writes it"
            )
        yield f"{file}, row {row}", raw
