"""Files that torch.save wrote, read as data: no code in them runs, and they cannot allocate more memory than
their size.

`weights_only` alone still calls what a pickle names, such as `bytearray(10**11)`, and trusts its tensor
sizes. So the pickle is scanned first, and the tensors are memory-mapped.
"""

from __future__ import annotations

import os
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from trainers.stored import MB, DamagedError, open_file

MOST_PICKLE = 4 * MB  # bytes besides the tensors; scanning them takes a second
MOST_ENTRIES = 100_000  # tensors of a file
GLOBALS = re.compile(
    r"torch\._utils _rebuild_(tensor|tensor_v2|parameter)|collections OrderedDict|torch (Size|device)"
    r"|torch (\w+Storage|u?int(8|16|32|64)|b?float(16|32|64)|bool)|torch\.storage UntypedStorage"
)
"""The globals that a pickle of tensors, numbers and text may name."""


class PickleError(DamagedError):
    """A pickle names globals that no tensor needs: reading it could run any code."""


def read_tensors(path: Path, *, links: bool = False) -> Any:
    """The content of a torch.save file: tensors on the host, in lists and dicts, with numbers and text. The
    tensors are a private memory map of the file. A symbolic link is followed only with `links`.

    Raises DamagedError for any other file, including one shorter than its tensors claim, and OSError if it is
    missing or cannot be read."""
    with open_file(path, links=links) as stream:
        size = os.fstat(stream.fileno()).st_size
        _check_archive(stream, size)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
        raise DamagedError(f"torch cannot read it ({type(error).__name__})") from None
    for tensor in tensors_in(found):
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
            shape = tuple(tensor.shape)
            raise DamagedError(f"it claims a tensor of {shape}, more than the file holds")
    return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in lists, tuples and dicts, at any depth."""
    waiting = [value]
    while waiting:
        some = waiting.pop()
        if isinstance(some, Tensor):
            yield some
        elif isinstance(some, dict):
            waiting.extend(some.values())
        elif isinstance(some, list | tuple):
            waiting.extend(some)


def _check_archive(stream: BinaryIO, size: int) -> None:
    """Raises DamagedError unless it is a zip archive as torch.save writes it: uncompressed, with a pickle
    that names only what tensors need."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(entries) > MOST_ENTRIES or len(set(names)) < len(names):
                raise DamagedError("its archive has too many files, or two of one name")
            for entry in entries:
                if (
                    entry.compress_type != zipfile.ZIP_STORED
                    or not entry.file_size == entry.compress_size <= size
                ):
                    raise DamagedError("its archive is compressed, as torch.save never writes it")
            pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE:
                raise DamagedError(f"it has no pickle of at most {MOST_PICKLE:,} bytes")
            with archive.open(pickles[0]) as pickle:
                check_pickle(pickle)
    except DamagedError:
        raise
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
        RuntimeError,
        EOFError,
        UnicodeError,
    ) as error:
        raise DamagedError(f"it is no archive that torch.save writes ({error})") from None


def check_pickle(stream: Any) -> None:
    """Raises DamagedError if the pickle at the stream's position names anything that tensors do not need.
    Leaves the stream after the pickle."""
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise PickleError("its pickle is not of the form that torch.save writes")
            if opcode.name == "GLOBAL" and not GLOBALS.fullmatch(str(argument)):
                raise PickleError(f"its pickle names {str(argument)[:80]!r}, which is no part of a tensor")
    except DamagedError:
        raise
    except (ValueError, EOFError, OverflowError, MemoryError) as error:
        raise DamagedError(f"its pickle cannot be read ({error})"[:200]) from None


def check_weights(found: Any, network: nn.Module) -> dict[str, Tensor]:
    """The weights from a file, checked against the network: every tensor present, with its shape and dtype,
    and finite. Raises DamagedError."""
    if not isinstance(found, dict):
        raise DamagedError(f"it holds a {type(found).__name__}, not the weights of a network")
    wanted = network.state_dict()
    if found.keys() != wanted.keys():
        other = sorted(map(str, found.keys() ^ wanted.keys()))
        raise DamagedError(f"it does not hold the weights of this network: {', '.join(other)[:200]}")
    for name, tensor in wanted.items():
        check_like(found[name], tensor, name)
    return dict(found)


def check_like(found: Any, wanted: Tensor, name: str) -> None:
    """Raises DamagedError unless `found` is a finite tensor of the shape and dtype of `wanted`."""
    if not isinstance(found, Tensor):
        raise DamagedError(f"{name}: expected a tensor, found {type(found).__name__}")
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        expected = f"{wanted.dtype} {tuple(wanted.shape)}"
        raise DamagedError(f"{name}: expected {expected}, found {found.dtype} {tuple(found.shape)}")
    if found.is_floating_point() and not bool(found.isfinite().all()):
        raise DamagedError(f"{name}: some values are not finite")
