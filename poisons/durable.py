"""Files that appear whole or not at all and stay after a power cut, and the digests they are known by."""

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
from trainers.stored import DamagedError, open_file


class StoreError(OSError):
    """A store's disk, or server, does not answer or could not take a file; nothing half-written is left."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redacted(str(message)))


def write_whole(path: Path, value: Any) -> None:
    """Write JSON so that `path` appears whole or not at all, and stays after a power cut."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that `path` appears whole or not at all, and stays after a power cut: on a full disk
    what was there before is still there. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, data: bytes) -> None:
    """Write a file that a user asked for, whole or not at all: a link is written through, and what is no
    file, such as /dev/stdout or a named pipe, is written to as it is. Raises OSError."""
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path.resolve() if path.is_symlink() else path, data)


def create_whole(path: Path, value: Any) -> None:
    """Like `write_whole`, but what is there already stays; of several who try at once, one succeeds."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(json.dumps(value))
        flush(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_aside(folder: Path, quarantine: Path) -> None:
    """Move what is damaged into the folder `quarantine`; harmless if it is not there. Raises OSError."""
    if os.path.lexists(folder):
        quarantine.mkdir(exist_ok=True)
        os.rename(folder, quarantine / f"{folder.name}-{time.time_ns()}")


def flush(path: Path) -> None:
    """Have a file's bytes, or a folder's entries, on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp(file: Path) -> dict[str, Any]:
    """What a record says of a file: digest, size, and the time of its last change, after which the digest is
    looked at again."""
    stat = file.stat()
    return {"sha256": sha256(file), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def has_size(file: Path, expected: dict[str, Any]) -> bool:
    """Whether there is an ordinary file of the size in its stamp; its bytes are not read."""
    try:
        found = file.lstat()
        return stat_module.S_ISREG(found.st_mode) and found.st_size == expected["bytes"]
    except (FileNotFoundError, NotADirectoryError):
        return False


def unchanged(file: Path, expected: dict[str, Any]) -> bool:
    """Whether the file is the one that was stamped. Its bytes are read only if it was touched since, copied
    for example."""
    if not has_size(file, expected):
        return False
    return file.stat().st_mtime_ns == expected.get("mtime_ns") or sha256(file) == expected["sha256"]


def intact(file: Path, expected: dict[str, Any]) -> bool:
    """Whether the file is the one that was stamped. All of its bytes are read; what cannot be is not."""
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
