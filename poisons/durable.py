"""Files that are written whole or not at all and survive a power cut, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat as stat_module
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainers.redaction import redacted
from trainers.spec import InputError
from trainers.stored import DamagedError, open_file

SIGNATURE = 8  # first bytes of a file, which differ between formats


class StoreError(OSError):
    """The disk or server of a store does not answer, or a file could not be written. Nothing half-written is
    left."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redacted(str(message)))


def write_whole(path: Path, value: Any) -> None:
    """Write JSON so that `path` appears whole or not at all, and survives a power cut."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that `path` appears whole or not at all, and survives a power cut. On a full disk the
    old file stays. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that a user asked for, whole or not at all. A symbolic link is followed; /dev/stdout, a
    named pipe and the like are written to directly. InputError for a folder, and for an existing
    file in another format, which stays. Raises OSError."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: write the name of a file in it")
    if path.is_file() and (found := _signature(path)) and not data.startswith(found):
        raise InputError(f"{path} exists and is another kind of file, so it stays: write another name")
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path.resolve() if path.is_symlink() else path, data)


def _signature(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SIGNATURE)


def create_whole(path: Path, value: Any) -> None:
    """Like `write_whole`, but an existing file stays. Of several concurrent writers one succeeds."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(json.dumps(value))
        flush(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_aside(folder: Path, quarantine: Path) -> None:
    """Move a damaged folder into `quarantine`, if it exists. Raises OSError."""
    if os.path.lexists(folder):
        quarantine.mkdir(exist_ok=True)
        os.rename(folder, quarantine / f"{folder.name}-{time.time_ns()}")


def flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp(file: Path) -> dict[str, Any]:
    """The stamp of a file in a record: digest, size and modification time. The digest is checked again if the
    time differs."""
    stat = file.stat()
    return {"sha256": sha256(file), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def has_size(file: Path, expected: dict[str, Any]) -> bool:
    """Whether the file is a regular file of the stamped size. Its bytes are not read."""
    try:
        found = file.lstat()
        return stat_module.S_ISREG(found.st_mode) and found.st_size == expected["bytes"]
    except (FileNotFoundError, NotADirectoryError):
        return False


def unchanged(file: Path, expected: dict[str, Any]) -> bool:
    """Whether the file matches its stamp. Its bytes are read only if its modification time differs, for
    example after a copy."""
    if not has_size(file, expected):
        return False
    return file.stat().st_mtime_ns == expected.get("mtime_ns") or sha256(file) == expected["sha256"]


def intact(file: Path, expected: dict[str, Any]) -> bool:
    """Whether the file matches its stamp. All bytes are read; False if that fails."""
    try:
        return has_size(file, expected) and _read(file) == expected["sha256"]
    except (OSError, DamagedError):
        return False


def sha256(file: Path) -> str:
    """The digest of a file's bytes, read once per process for each (path, size, time of change)."""
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _sha256(file: Path, *_: int) -> str:
    return _read(file)


def _read(file: Path) -> str:
    with open_file(file, links=True) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
