"""Arrays that others made, out of .npy, .npz and .pt files: noise or poisoned images; no pickle is read."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poisons.delta import Application, whole_levels
from trainers.images import Images, channels_first
from trainers.pickles import SUFFIXES, pickle_to_array
from trainers.spec import InputError

NAMES = ("x", "noise", "perturbation", "delta")  # of arrays in one file
LABELS = ("y", "label", "labels")
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
SLACK = 1e-6  # what a float may lie beyond [-1, 1]


@dataclass(frozen=True)
class Found:
    """What a file holds: `values` M,C,H,W, and of each row its label and its row in the source, if told."""

    path: Path
    values: Tensor
    labels: Tensor | None
    index: Tensor | None


def read_array(path: Path, clean: Images) -> Found:
    """Its arrays, and what they are."""
    reader = {".npy": _npy, ".npz": _npz, ".pt": _torch, ".pth": _torch}.get(path.suffix.lower())
    if path.suffix.lower() in SUFFIXES:
        raise InputError(pickle_to_array(path))
    if reader is None:
        raise InputError(f"{path}: expected a .npy, .npz or .pt file, or a folder of images")
    try:
        arrays = reader(path)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
        raise InputError(_why(path, error)) from None
    name = _name(path, arrays)
    labels = next((arrays[known] for known in LABELS if known in arrays), None)
    values = _layout(path, _tensor(path, arrays[name]), clean)
    return Found(path, values, _column(path, labels), _column(path, arrays.get("index")))


def _npy(path: Path) -> dict[str, Any]:
    return {
        "": np.load(path, mmap_mode="c", allow_pickle=False)
    }  # a private map, of which torch does not warn


def _npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
        named = [name for name in NAMES if name in found.files]
        wanted = [*named, *LABELS, "index"] if named else found.files
        return {name: found[name] for name in found.files if name in wanted}


def _torch(path: Path) -> dict[str, Any]:
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if isinstance(found, Tensor):
        return {"": found.detach()}
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}; expected a tensor, or a dict of tensors")
    return {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}


def _why(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return f"{path} is empty"
    if isinstance(error, pickle.UnpicklingError) or re.search("pickle|Python objects", str(error)):
        return (
            f"{path} is no plain array: it needs pickle, which can run anything, and is not read; store the "
            "bare numbers, with np.save of an array or torch.save of a tensor"
        )
    reason = (str(error).splitlines() or [""])[0]
    return f"{path} cannot be read ({type(error).__name__}: {reason}); was it copied whole?"


def _name(path: Path, arrays: Mapping[str, Any]) -> str:
    """Which array is the perturbation."""
    found = [name for name in NAMES if name in arrays]
    for rank in (4, 3):
        found = found or [name for name, array in arrays.items() if array.ndim == rank]
    if len(found) == 1 or list(arrays) == [""]:
        return (found or [""])[0]
    names = ", ".join(arrays) or "nothing"
    if found and found[0] in NAMES:
        raise InputError(f"{path} holds {names}; keep only one of {', '.join(found)}")
    raise InputError(f"{path} holds {names}; name the noise, or the poisoned images, `x`")


def _tensor(path: Path, array: Any) -> Tensor:
    if isinstance(array, Tensor):
        dtype, tensor = str(array.dtype).removeprefix("torch."), array
    else:
        dtype = array.dtype.name
        native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        tensor = torch.from_numpy(native) if dtype in DTYPES else torch.empty(0)
    if dtype not in DTYPES:
        raise InputError(
            f"{path} holds {dtype}; expected floats (noise in [-1, 1]), signed integers (noise in levels) "
            "or uint8 (the poisoned images)"
        )
    return tensor


def _column(path: Path, array: Any) -> Tensor | None:
    """Labels or an index; int64."""
    if array is None:
        return None
    column = _tensor(path, array).flatten()
    if column.dtype.is_floating_point:
        raise InputError(f"{path}: labels and index must be whole numbers, found {column.dtype}")
    return column.long()


def _layout(path: Path, values: Tensor, clean: Images) -> Tensor:
    """As M,C,H,W."""
    c, h, w = clean.shape
    try:
        if values.dim() and len(values):
            return channels_first(values, clean.shape)
    except InputError:
        pass
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
        bad = (~(worst <= limit)).nonzero()  # NaN is not below either
        if len(bad):
            row, value = at + int(bad[0, 0]), float(worst[bad[0, 0]])
            what = f"{value:.6g} lies beyond {advice}" if math.isfinite(value) else f"a value is {value}"
            raise InputError(f"{found.path}, row {row}: {what}")
        at += len(part)
    if floating:
        return whole_levels(values, application)
    return small(values.to(torch.int16))


def small(values: Tensor) -> Tensor:
    """As int8 where all fit."""
    low, high = values.aminmax()
    return values.to(torch.int8) if low >= -128 and high <= 127 else values
