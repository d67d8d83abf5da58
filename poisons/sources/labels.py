"""Label columns of tables, whole numbers or text, numbered as by Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from trainers.spec import InputError, nearest
from trainers.stored import OBJECT, DamagedError


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one file (integers or text), and its class names if it has them."""

    file: str
    values: pa.ChunkedArray
    names: tuple[str, ...] | None

    @property
    def is_text(self) -> bool:
        return _is_text(self.values.type)

    @classmethod
    def of(cls, file: str, values: pa.ChunkedArray, names: tuple[str, ...] | None) -> LabelColumn:
        """InputError for labels that are missing, or neither whole numbers nor text."""
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if len(values) and not pa.types.is_integer(values.type) and not _is_text(values.type):
            raise InputError(f"{file}: labels must be whole numbers or text, found {values.type}")
        if values.null_count:
            row = pc.index(values.is_null(), value=True).as_py()
            raise InputError(f"{file}, row {row}: the label is missing")
        return cls(file, values.cast(pa.string()) if _is_text(values.type) else values, names)


@dataclass(frozen=True)
class Labels:
    """How labels are numbered, as determined by the training images. `names` is empty if classes have none;
    `highest` is the largest training label."""

    num_classes: int
    highest: int
    names: tuple[str, ...]
    are_text: bool

    @classmethod
    def of(cls, training: Sequence[LabelColumn]) -> Labels:
        """From all training files. InputError if they differ in kind or names, or a label is no class
        number."""
        filled = [column for column in training if len(column.values)]
        if not filled:
            raise InputError(f"{training[0].file}: the source has no training images")
        first = filled[0]
        for column in filled[1:]:
            if column.is_text != first.is_text:
                raise InputError(
                    f"{column.file}: its labels are not text or numbers as {first.file} has them"
                )
        names = _agreed_names(training)
        if first.is_text:
            names = names or tuple(sorted({text for c in filled for text in pc.unique(c.values).to_pylist()}))
            highest = max(int(_text_numbers(column, names).max()) for column in filled)
            return cls(len(names), highest, names, are_text=True)
        return cls._of_numbers(filled, names or ())

    @classmethod
    def _of_numbers(cls, filled: list[LabelColumn], names: tuple[str, ...]) -> Labels:
        images = sum(len(column.values) for column in filled)
        bound = len(names) or images
        known = f"{len(names)} classes have names" if names else f"there are {images} training images"
        highest = max(_checked_maximum(column, bound, known) for column in filled)
        return cls(len(names) or highest + 1, highest, names, are_text=False)

    def encoded(self, column: LabelColumn) -> Tensor:
        """The labels of a file as int64. InputError for a label that training images do not have."""
        if not len(column.values):
            return torch.empty(0, dtype=torch.int64)
        if column.names and self.names and column.names != self.names:
            raise InputError(
                f"{column.file} names its classes {_some(column.names)}; training images: {_some(self.names)}"
            )
        if column.is_text != self.are_text:
            kinds = ("text", "numbers") if column.is_text else ("numbers", "text")
            raise InputError(f"{column.file}: labels are {kinds[0]}, but training labels are {kinds[1]}")
        if column.is_text:
            return _text_numbers(column, self.names)
        _checked_maximum(column, self.num_classes, f"training labels end at {self.num_classes - 1}")
        return _int64(column.values)


def feature(schema: pa.Schema, name: str) -> dict[str, Any]:
    """The entry for a column that `datasets` wrote into a table's metadata; empty if there is none."""
    try:
        found = OBJECT.read((schema.metadata or {})[b"huggingface"])["info"]["features"][name]
    except (KeyError, TypeError, DamagedError):
        return {}
    return found if isinstance(found, dict) else {}


def class_names(schema: pa.Schema, name: str) -> tuple[str, ...] | None:
    """The class names of a column, if it is a ClassLabel."""
    found = feature(schema, name)
    names = found.get("names") if found.get("_type") == "ClassLabel" else None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _agreed_names(columns: Sequence[LabelColumn]) -> tuple[str, ...] | None:
    named = [column for column in columns if column.names is not None]
    for column in named[1:]:
        if column.names != named[0].names:
            here, there = _some(column.names or ()), _some(named[0].names or ())
            raise InputError(f"{column.file} names its classes {here}, but {named[0].file} {there}")
    return named[0].names if named else None


def _checked_maximum(column: LabelColumn, bound: int, known: str) -> int:
    """The largest label. InputError for one that is negative, or not below `bound`."""
    ends = pc.min_max(column.values).as_py()
    if ends["min"] < 0:
        row = pc.index(column.values, pa.scalar(ends["min"], column.values.type)).as_py()
        raise InputError(f"{column.file}, row {row}: the label is {ends['min']}")
    if ends["max"] >= bound:
        row = pc.index(column.values, pa.scalar(ends["max"], column.values.type)).as_py()
        raise InputError(
            f"{column.file}, row {row}: label {ends['max']}, but {known}; "
            "labels are the numbers of classes: 0, 1, 2, ..."
        )
    return int(ends["max"])


def _text_numbers(column: LabelColumn, names: tuple[str, ...]) -> Tensor:
    """int64. InputError for text that is no class name."""
    found = pc.index_in(column.values, value_set=pa.array(names, pa.string()))
    if found.null_count:
        row = pc.index(found.is_null(), value=True).as_py()
        text = column.values[row].as_py()
        raise InputError(f"{column.file}, row {row}: no class is named {text!r}{nearest(text, names)}")
    return _int64(found)


def _int64(values: pa.ChunkedArray) -> Tensor:
    """Read from the buffers, since `to_numpy` would import pandas."""
    chunks = values.cast(pa.int64()).chunks
    parts = [np.frombuffer(c.buffers()[1], np.int64, len(c), 8 * c.offset) for c in chunks if len(c)]
    return torch.from_numpy(np.concatenate([*parts, np.empty(0, np.int64)]))


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
