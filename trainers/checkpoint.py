"""Checkpoints: one file per training, written whole over the last one, safe to load."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile
from trainers.tensor_files import read_tensors


@with_config(ConfigDict(extra="forbid"))
class Saved(TypedDict):
    """The content of a checkpoint file: the training that owns it, and its state."""

    owner: str
    state: dict[str, Any]


SAVED = JsonFile[dict[str, Any]](Saved)


@dataclass
class Checkpoint:
    """The file from which a training resumes, written every `every` seconds. `data` names the images that it
    is trained on.

    `warnings` collects problems that did not stop the training: a full disk, a damaged file.
    """

    path: Path
    every: float = 60.0
    data: str = ""
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the next save is due."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: dict[str, Any], *, owner: str) -> None:
        """Replace the file by `state` (tensors, numbers, strings, lists, dicts) of the training `owner`."""
        self._last = time.monotonic()
        try:
            write_tensors(self.path, {"owner": self._of(owner), "state": state})
        except OSError as error:
            text = f"no checkpoint could be written: {error}"
            if text not in self.warnings:
                self.warnings.append(text)

    def load(self, *, owner: str) -> dict[str, Any] | None:
        """The last saved state, on the host; None if there is none, or the file is damaged. OSError if the
        file cannot be read, since it may be intact; InputError if it belongs to another training."""
        try:
            found = SAVED.check(read_tensors(self.path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OSError(f"the checkpoint {self.path} cannot be read: {error.strerror or error}") from error
        except DamagedError as error:
            self.reject(f"was damaged ({error})")
            return None
        if found["owner"] != self._of(owner):
            raise InputError(
                f"{self.path} belongs to another training ({found['owner']}; this is {self._of(owner)}): "
                "delete it, or name another file"
            )
        return dict(found["state"])

    def reject(self, why: str) -> None:
        """Record a warning that the file cannot be used: what it held is done again."""
        self.warnings.append(f"the checkpoint {why}; what it held was done again")

    def remove(self) -> None:
        """Delete the file. Called once the training's result is stored."""
        for file in (self.path, _beside(self.path)):
            file.unlink(missing_ok=True)

    def _of(self, owner: str) -> str:
        return f"{owner}, data {self.data}" if self.data else owner


def write_tensors(path: Path, value: dict[str, Any]) -> None:
    """Write with torch.save so that `path` appears whole or not at all, for one writer at a time. The next
    writer overwrites what a killed one left. Raises OSError."""
    temporary = _beside(path)
    try:
        with temporary.open("wb") as stream:
            torch.save(value, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:  # torch raises it for a full disk
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        if not temporary.is_dir():
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
