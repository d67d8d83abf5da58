"""Parquet files in the Hugging Face layout for images: a column of {bytes, path} and a column of
whole-number labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from poisons.sources.base import Reading, Source, Split, digest, find
from poisons.sources.decode import Decoder
from trainers.images import Images
from trainers.spec import InputError


class Parquet(Source, kind="parquet"):
    """`train` and `test`: a path, an fsspec URL (`s3://`, `https://`, `hf://`) or a glob; files are read in
    sorted order. `grey` gives one channel."""

    locators = ("train", "test")
    train: str
    test: str
    image: str = "img"
    label: str = "label"
    grey: bool = False

    def measure(self) -> str:
        train, test = find(self.train), find(self.test)
        how = [self.image, self.label, f"{len(train)} for training", *(["grey"] if self.grey else [])]
        return digest(train + test, *how)

    def open(self, split: Split) -> Reading:
        trained = [self._labels(file) for file in find(self.train)]
        known = max((int(labels.max()) for labels in trained if len(labels)), default=-1) + 1
        files = find(getattr(self, split))
        y = torch.cat([self._labels(file, known) for file in files])
        groups = [group for file in files for group in _groups(file, self.image)]
        ends = torch.tensor([group.rows for group in groups]).cumsum(0)
        decode, column = Decoder(grey=self.grey), lru_cache(maxsize=1)(_column)

        def take(rows: Tensor) -> Images:
            encoded: list[tuple[str, bytes]] = []
            among = torch.searchsorted(ends, rows, right=True)
            for number in among.unique().tolist():  # the pixels of one group at a time are in memory
                group = groups[number]
                mine = rows[among == number] - (int(ends[number]) - group.rows)
                encoded += _encoded(group, column(group, self.image), mine.tolist())
            return Images(decode(encoded), y[rows], known)

        return Reading(y, known, take)

    def _labels(self, file: str, known: int | None = None) -> Tensor:
        with _opened(file, self.label) as table:
            column = table.read(columns=[self.label]).column(self.label)
        if not pa.types.is_integer(column.type):
            raise InputError(f"{file}: labels must be whole numbers, found {column.type}")
        labels = column.to_pylist()
        for row, value in enumerate(labels):
            if value is None or value < 0:
                raise InputError(f"{file}, row {row}: the label is {'missing' if value is None else value}")
            if known is not None and value >= known:
                raise InputError(f"{file}, row {row}: label {value}, but training labels end at {known - 1}")
        return torch.tensor(labels, dtype=torch.int64)


@dataclass(frozen=True)
class _Group:
    """A row group of a file: the least that Parquet reads."""

    file: str
    number: int
    first: int  # row of the file
    rows: int


def _column(group: _Group, name: str) -> pa.ChunkedArray:
    with _opened(group.file, name) as table:
        return table.read_row_group(group.number, columns=[name]).column(name)


def _encoded(group: _Group, column: pa.ChunkedArray, rows: list[int]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of these rows of a group."""
    for row in rows:
        value = column[row].as_py()
        raw = value.get("bytes") if isinstance(value, dict) else value
        place = f"{group.file}, row {group.first + row}"
        if not isinstance(raw, bytes):
            raise InputError(
                f"{place}: no image bytes; expected a struct with `bytes`, as Hugging Face writes it"
            )
        yield place, raw


def _groups(file: str, name: str) -> Iterator[_Group]:
    with _opened(file, name) as table:
        meta = table.metadata
    first = 0
    for number in range(meta.num_row_groups):
        rows = meta.row_group(number).num_rows
        yield _Group(file, number, first, rows)
        first += rows


@contextmanager
def _opened(file: str, name: str) -> Iterator[Any]:
    """A Parquet file that has a column `name`."""
    try:
        with fsspec.open(file, "rb") as stream:
            table = pq.ParquetFile(stream)
            if name not in table.schema_arrow.names:
                known = ", ".join(table.schema_arrow.names)
                raise InputError(f"{file} has no column {name!r}; it has: {known}")
            yield table
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet ({error})") from None
