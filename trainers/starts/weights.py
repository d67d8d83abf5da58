"""A training that starts from a file of weights."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from trainers.spec import InputError
from trainers.start import Kept, Start, Task, Weights
from trainers.stored import DamagedError
from trainers.tensor_files import PickleError, read_tensors

INSIDE = ("state_dict", "model", "net", "model_state_dict")  # names under which checkpoints hold the weights


class WeightsFile(Start, kind="weights"):
    """Weights from a file: torch.save of a state_dict, or a checkpoint that has one inside, or .safetensors.

    Names may have a prefix such as `module.`. A last layer for other classes is drawn anew. The key of a
    trial depends on the weights, not on the file; every machine needs it at the same path.
    """

    smoke: ClassVar[dict[str, Any]] = {"path": "weights.pt", "digest": "0" * 64}
    path: str
    """File of weights; a relative path is that of the folder where opsctl is run."""
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the names and values of the weights; opsctl fills it in."""

    def pinned(self) -> Self:
        file = Path(self.path).expanduser().absolute()
        found = _digest(file)
        if self.digest not in (None, found):
            raise InputError(
                f"start: the weights in {file} have the digest {found[:16]}..., but the spec expects "
                f"{self.digest[:16]}...; correct the path, or drop `digest` to accept them"
            )
        return self.model_copy(update={"path": str(file), "digest": found})

    def _in_key(self, name: str, value: Any) -> bool:
        return name != "path" and super()._in_key(name, value)

    def identity(self) -> Any:
        if self.digest is None:
            raise ValueError(f"start from {self.path!r} has no key before it is pinned")
        return super().identity()

    def weights(self, task: Task, kept: Kept | None) -> Weights:
        return read_weights(Path(self.pinned().path))


def read_weights(file: Path) -> Weights:
    """The weights in a file. InputError if it holds none."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        found = read_tensors(file, links=True)
    except OSError as error:
        raise InputError(f"start: {file} cannot be read: {error.strerror or error}") from None
    except PickleError:
        raise InputError(
            f"start: {file} is a pickle that could run code; where you trust it, load it and write "
            "torch.save(model.state_dict(), file)"
        ) from None
    except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
        reason = error if isinstance(error, DamagedError) else type(error).__name__
        raise InputError(f"start: {file} holds no weights ({reason})") from None
    for name in INSIDE:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"start: {file} holds no weights: it should be torch.save(model.state_dict(), file)")
    return found


def _digest(file: Path) -> str:
    """`digest_of` the weights in a file, computed again only if it was written since. InputError."""
    try:
        about = file.stat()
    except OSError as error:
        raise InputError(f"start: {file} cannot be read: {error.strerror or error}") from None
    return _digest_then(file, about.st_mtime_ns, about.st_size)


@cache
def _digest_then(file: Path, written: int, size: int) -> str:
    return digest_of(read_weights(file))


def digest_of(weights: Weights) -> str:
    """SHA-256 of names, types, shapes and values; files of other names or formats with equal weights have
    one."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
