"""Arrays of noise or poisoned images made elsewhere, from .npy, .npz and .pt files; pickles are never
read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor

from poisons.exchange.array_files import DTYPES, READERS, Held, arrays_of, needs_pickle
from poisons.exchange.imported_folder import match_rows
from poisons.perturbations.delta import Application, whole_levels
from trainers.images import Images, channels_first
from trainers.pickles import SUFFIXES, pickle_to_array
from trainers.spec import InputError
from trainers.stored import DamagedError, open_file
from trainers.tensor_files import PickleError

NAMES = ("x", "noise", "perturbation", "delta")  # of arrays in a file
LABELS = ("y", "label", "labels")
INDEX = "index"
SLACK = 1e-6  # how far a float may exceed [-1, 1]
MOST_ROWS = 10_000_000  # of a file
STEP = 2**24  # values widened at a time


@dataclass(frozen=True)
class Found:
    """The useful content of a file: `values` M,C,H,W and, if present, labels. `rows` (int64) is the row of
    each clean image, if the file has an index; labels then belong to the clean images, else to the rows.
    `count` is the number of rows in the file; `values` holds only the first rows if there are more than
    needed."""

    path: Path
    values: Tensor
    labels: Tensor | None
    rows: Tensor | None
    count: int


def read_array(path: Path, clean: Images, where: Tensor) -> Found:
    """Read the arrays of a file and identify them. `where` (int64 N) are the clean images' rows in the
    source. Arrays that do not fit them are not read."""
    if path.suffix.lower() in SUFFIXES:
        raise InputError(pickle_to_array(path))
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path}: expected a .npy, .npz or .pt file, or a folder of images")
    try:
        with open_file(path, links=True) as stream:
            if not stream.read(1):
                raise InputError(f"{path} is empty")
        return _found(path, arrays_of(path, NAMES, (*LABELS, INDEX)), clean, where)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
        raise InputError(_why(path, error)) from None


def _found(path: Path, arrays: Mapping[str, Held], clean: Images, where: Tensor) -> Found:
    values = arrays[_name(path, arrays)]
    labels = next((_column(path, name, arrays[name]) for name in LABELS if name in arrays), None)
    index = _column(path, INDEX, arrays[INDEX]) if INDEX in arrays else None
    _check_noise(path, values, clean)
    count = values.shape[0]
    if index is not None and len(index) != count:
        raise InputError(
            f"{path}: index has {len(index)} numbers for {count} rows; give one for each row, or leave it out"
        )
    if index is not None:
        wanted, rows = match_rows(path, index, where, "row").unique(return_inverse=True)
        labels = labels[wanted][rows] if labels is not None and len(labels) == count else labels
        read = values.read(wanted)
        return Found(path, channels_first(read, clean.shape), labels, rows, len(wanted))
    needed = max(len(clean), clean.num_classes, int(where.max()) + 1)
    read = values.read(None if count <= needed else torch.arange(needed))
    return Found(path, channels_first(read, clean.shape), labels, None, count)


def _why(path: Path, error: Exception) -> str:
    if not path.is_file():
        return f"{path} cannot be read: {error}"
    if isinstance(error, DamagedError) and not isinstance(error, PickleError):
        return f"{path} cannot be read: {error}; was it copied completely?"
    if isinstance(error, PickleError | UnpicklingError) or re.search("pickle|Python objects", str(error)):
        return needs_pickle(path)
    reason = (str(error).splitlines() or [""])[0]
    return f"{path} cannot be read ({type(error).__name__}: {reason}); was it copied completely?"


def _name(path: Path, arrays: Mapping[str, Held]) -> str:
    """The name of the array that is the perturbation."""
    found = [name for name in NAMES if name in arrays]
    for rank in (4, 3):
        found = found or [name for name, array in arrays.items() if len(array.shape) == rank]
    if len(found) == 1 or list(arrays) == [""]:
        return (found or [""])[0]
    names = ", ".join(arrays) or "nothing"
    if found and found[0] in NAMES:
        raise InputError(f"{path} holds {names}; keep only one of {', '.join(found)}")
    raise InputError(f"{path} holds {names}; name the noise, or the poisoned images, `x`")


def _column(path: Path, name: str, array: Held) -> Tensor:
    """Labels or an index, as int64."""
    if array.dtype not in DTYPES or "float" in array.dtype:
        raise InputError(f"{path}: labels and index must be whole numbers, found {name} of {array.dtype}")
    if math.prod(array.shape) > MOST_ROWS:
        raise InputError(f"{path}: {name} has the shape {array.shape}; at most {MOST_ROWS:,} rows are read")
    return array.read().flatten().long()


def _check_noise(path: Path, values: Held, clean: Images) -> None:
    """InputError unless the array is noise or images of the shape of the clean images."""
    if values.dtype not in DTYPES:
        raise InputError(
            f"{path} holds {values.dtype}; expected floats (noise in [-1, 1]), signed integers (noise in "
            "levels) or uint8 (the poisoned images)"
        )
    c, h, w = clean.shape
    known = {(c, h, w), (h, w, c), *({(h, w)} if c == 1 else ())}
    if not values.shape or not values.shape[0] or tuple(values.shape[1:]) not in known:
        raise InputError(
            f"{path} has the shape {tuple(values.shape)}, but the clean images are {tuple(clean.x.shape)}: "
            f"expected M,{c},{h},{w} or M,{h},{w},{c}, where M is the {len(clean)} images or the "
            f"{clean.num_classes} classes, or 1 for a change that is the same for all"
        )


def levels(found: Found, application: Application) -> Tensor:
    """Noise in whole levels, int8 or int16."""
    values, floating = found.values, found.values.dtype.is_floating_point
    limit = 1 + SLACK if floating else 255
    advice = "[-1, 1]; if these are levels of 1/255, store them as integers" if floating else "-255..255"
    size, at = max(1, 2**22 // math.prod(values.shape[1:])), 0
    for part in values.split(size):
        worst = part.double().abs().flatten(1).amax(1)
        bad = (~(worst <= limit)).nonzero()  # also true for NaN
        if len(bad):
            row, value = at + int(bad[0, 0]), float(worst[bad[0, 0]])
            what = f"{value:.6g} is outside {advice}" if math.isfinite(value) else f"a value is {value}"
            raise InputError(f"{found.path}, row {row}: {what}")
        at += len(part)
    if floating:
        return whole_levels(values, application)
    whole = WholeLevels(tuple(values.shape))
    for part in values.split(size):
        whole.append(part.to(torch.int16))
    return whole.values()


class WholeLevels:
    """Levels appended part by part: int8 until some do not fit, then all int16, in the memory of the
    result."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.row, self.rows = shape, math.prod(shape[1:]), 0
        room = torch.from_numpy(np.empty(2 * math.prod(shape), np.uint8))  # pages are allocated when written
        self.narrow, self.wide = room[: math.prod(shape)].view(torch.int8), room.view(torch.int16)
        self.is_narrow = True

    def append(self, part: Tensor) -> None:
        """Append rows, int16."""
        low, high = part.aminmax()
        if self.is_narrow and not -128 <= int(low) <= int(high) <= 127:
            self._widen()
        here = slice(self.rows * self.row, (self.rows + len(part)) * self.row)
        (self.narrow if self.is_narrow else self.wide)[here] = part.reshape(-1)
        self.rows += len(part)

    def _widen(self) -> None:
        """Convert to int16 in place, from the end, so that nothing is overwritten before it is read."""
        for stop in range(self.rows * self.row, 0, -STEP):
            start = max(0, stop - STEP)
            self.wide[start:stop] = self.narrow[start:stop].to(torch.int16)
        self.is_narrow = False

    def values(self) -> Tensor:
        """All rows."""
        return (self.narrow if self.is_narrow else self.wide).view(self.shape)
