"""Parquet files in the Hugging Face layout for images: a column of {bytes, path} and a column of labels."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from poisons.sources.base import Reading, Source, Split, combine, file_digest, find
from poisons.sources.decode import Decoder, is_turned, may_be_turned
from poisons.sources.labels import LabelColumn, Labels, class_names, feature
from trainers.images import Images
from trainers.spec import InputError, nearest

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # the type of a column of `datasets.Image`


class Parquet(Source, kind="parquet"):
    """Images decoded as by Hugging Face `datasets`, rotated by EXIF.

    Text labels are numbered in sorted order of the training labels, as by `class_encode_column` of
    `datasets`. The names of a ClassLabel are kept.
    """

    locators = ("train", "test")
    train: str
    """Training files: a path, an fsspec URL (s3://, https://, hf://) or a glob, read in sorted order."""
    test: str
    """Test files, in one of the forms of `train`."""
    image: str = "img"
    """Column of the images."""
    label: str = "label"
    """Column of the labels: whole numbers or text."""
    grey: bool = False
    """Whether images are read with one channel, not three."""

    def measure(self) -> str:
        train, test = find(self.train), find(self.test)
        summaries = [self._summary(file) for file in train + test]
        labels = Labels.of([summary.labels for summary in summaries[: len(train)]])
        tested = [labels.encoded(summary.labels) for summary in summaries[len(train) :]]
        if not any(map(len, tested)):
            raise InputError(f"{test[0]} holds no images")
        how = [self.image, self.label, f"{len(train)} for training", *(["grey"] if self.grey else [])]
        # below: cases that were once read differently, marked so that other keys stay the same
        how += ["EXIF orientation"] if any(summary.is_turned for summary in summaries) else []
        how += [f"mode {mode}" for mode in sorted({summary.mode for summary in summaries if summary.mode})]
        how += [f"{labels.num_classes} classes"] if labels.num_classes != labels.highest + 1 else []
        return combine([summary.sha256 for summary in summaries], *how)

    def open(self, split: Split) -> Reading:
        labels = Labels.of([self._labels(file) for file in find(self.train)])
        files = find(getattr(self, split))
        y = torch.cat([labels.encoded(self._labels(file)) for file in files])
        groups = [group for file in files for group in _groups(file, self.image)]
        ends = torch.tensor([group.rows for group in groups]).cumsum(0)
        column = lru_cache(maxsize=1)(_column)
        decode = Decoder(grey=self.grey, upright=True)

        def take(rows: Tensor) -> Images:
            pixels: list[Tensor] = []
            among = torch.searchsorted(ends, rows, right=True)
            for number in among.unique().tolist():  # one group of pixels in memory at a time
                group = groups[number]
                mine = rows[among == number] - (int(ends[number]) - group.rows)
                encoded = _encoded(group, column(group, self.image), mine.tolist())
                pixels.append(decode(encoded, through=group.mode))
            return Images(torch.cat(pixels), y[rows], labels.num_classes)

        return Reading(y, labels.num_classes, take, labels.names)

    def _labels(self, file: str) -> LabelColumn:
        with _opened(file, self.label) as table:
            return _label_column(file, table, self.label)

    def _summary(self, file: str) -> _Summary:
        """What the fingerprint needs from a file; a remote file is read only once."""
        with _nearby(file) as near:
            with _opened(near, self.label, file) as table:
                labels = _label_column(file, table, self.label)
            groups = list(_groups(near, self.image, file))
            turned = any(_has_turned(group, self.image) for group in groups)
            modes = {group.mode for group in groups} - {"L" if self.grey else "RGB"}
            return _Summary(file_digest(near), labels, turned, next(iter(modes), None))


@dataclass(frozen=True)
class _Summary:
    """A file's digest, its labels, whether EXIF rotates any of its images, and the intermediate mode of
    Pillow that all images are converted to, if any."""

    sha256: bytes
    labels: LabelColumn
    is_turned: bool
    mode: str | None


@dataclass(frozen=True)
class _Group:
    """A row group of a file, the smallest unit that Parquet reads."""

    file: str
    name: str  # of the file, in messages
    number: int
    first: int  # row of the file
    rows: int
    mode: str | None  # of Pillow, to which the column's feature converts images


def _label_column(file: str, table: pq.ParquetFile, name: str) -> LabelColumn:
    column = table.read(columns=[name]).column(name)
    return LabelColumn.of(file, column, class_names(table.schema_arrow, name))


def _column(group: _Group, name: str) -> pa.ChunkedArray:
    with _opened(group.file, name, group.name) as table:
        return table.read_row_group(group.number, columns=[name]).column(name)


def _has_turned(group: _Group, name: str) -> bool:
    for chunk in _column(group, name).chunks:
        is_struct = pa.types.is_struct(chunk.type) and chunk.type.get_field_index("bytes") >= 0
        images = chunk.field("bytes") if is_struct else chunk
        whole = images.buffers()[-1]  # all images at once, faster than one by one
        if whole is None or not may_be_turned(memoryview(whole)):
            continue
        encoded = (value.as_py() for value in images)
        if any(isinstance(raw, bytes) and is_turned(raw) for raw in encoded):
            return True
    return False


def _encoded(group: _Group, column: pa.ChunkedArray, rows: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of these rows of a group."""
    for row in rows:
        value = column[row].as_py()
        raw = value.get("bytes") if isinstance(value, dict) else value
        place = f"{group.name}, row {group.first + row}"
        if not isinstance(raw, bytes):
            raise InputError(
                f"{place}: no image bytes; expected a struct with `bytes`, as Hugging Face writes it"
            )
        yield place, raw


def _groups(file: str, column: str, name: str | None = None) -> Iterator[_Group]:
    with _opened(file, column, name) as table:
        meta, schema = table.metadata, table.schema_arrow
    found = feature(schema, column)
    mode = found.get("mode") if found.get("_type") == "Image" and schema.field(column).type == IMAGE else None
    first = 0
    for number in range(meta.num_row_groups):
        rows = meta.row_group(number).num_rows
        yield _Group(file, name or file, number, first, rows, mode)
        first += rows


@contextmanager
def _opened(file: str, column: str, name: str | None = None) -> Iterator[pq.ParquetFile]:
    """An open Parquet file with a column `column`; `name` is used in messages."""
    name = name or file
    try:
        with fsspec.open(file, "rb") as stream:
            table = pq.ParquetFile(stream)
            known = table.schema_arrow.names
            if column not in known:
                raise InputError(
                    f"{name} has no column {column!r}{nearest(column, known)}. (`image` and `label` of the "
                    "source say which columns are read.)"
                )
            yield table
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{name} cannot be read as Parquet ({error})") from None


@contextmanager
def _nearby(file: str) -> Iterator[str]:
    """The file itself if it is local, else a temporary copy."""
    if file.startswith("file://"):
        yield file
        return
    with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
        try:
            with fsspec.open(file, "rb") as stream:
                shutil.copyfileobj(stream, copy)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error}") from None
        copy.flush()
        yield f"file://{copy.name}"
