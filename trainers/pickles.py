"""Pickles are never read, since that may run any code: how to recognise one, and how to convert it."""

from __future__ import annotations

import zipfile
from pathlib import Path

SUFFIXES = (".pkl", ".pickle", ".p")
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before it wrote zip archives


def is_pickle(file: Path) -> bool:
    """Whether a file is a pickle, by its name or by its first bytes."""
    return file.suffix.lower() in SUFFIXES or _head(file)[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")


def pickle_to_array(file: Path) -> str:
    """A message: why a pickle of noise or images is not read, and two lines of Python that convert it to an
    array."""
    library, read = _read(file)
    return _message(
        file,
        "import numpy" if library == "numpy" else "import numpy, torch",
        f"numpy.save({file.with_suffix('.npy').name!r}, {read})",
        "if it holds a dict or a list, save the array that is in it",
    )


def pickle_to_tensors(file: Path) -> str:
    """The same for a pickle of images and labels, which becomes a file of tensors."""
    library, read = _read(file)
    tensors = "{'x': torch.tensor(found['x']), 'y': torch.tensor(found['y']), 'num_classes': 10}"
    return _message(
        file,
        f"import {'torch' if library == 'torch' else 'numpy, torch'}; found = {read}",
        f"torch.save({tensors}, {file.with_suffix('.pt').name!r})",
        "with its own names and number of classes",
    )


def _message(file: Path, first: str, second: str, note: str) -> str:
    return (
        f"{file} is a pickle: reading one can run any code, so it is not read. If you trust it, convert it "
        f"with two lines of Python ({note}):\n    {first}\n    {second}"
    )


def _read(file: Path) -> tuple[str, str]:
    """The library that reads a pickle, and the call."""
    if zipfile.is_zipfile(file) or LEGACY_TORCH in _head(file):
        return "torch", f"torch.load({file.name!r}, map_location='cpu', weights_only=False)"
    return "numpy", f"numpy.load({file.name!r}, allow_pickle=True)"


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(32)
    except OSError:
        return b""
