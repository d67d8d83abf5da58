"""Files that appear whole or not at all and stay after a power cut, and the digests they are known by."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainers.redaction import redacted


class StoreError(OSError):
    """A store's disk, or server, does not answer or could not take a file; nothing half-written is left."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redacted(str(message)))


def write_whole(path: Path, value: Any) -> None:
    """Write JSON so that `path` appears whole or not at all, and stays after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False))
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def has_size(file: Path, told: dict[str, Any]) -> bool:
    """Whether the file is there and has the size that its stamp tells; its bytes are not read."""
    try:
        return file.stat().st_size == told["bytes"]
    except (FileNotFoundError, NotADirectoryError):
        return False


def unchanged(file: Path, told: dict[str, Any]) -> bool:
    """Whether the file is the one that was stamped. Its bytes are read only if it was touched since, copied
    for example."""
    if not has_size(file, told):
        return False
    return file.stat().st_mtime_ns == told.get("mtime_ns") or sha256(file) == told["sha256"]


def intact(file: Path, told: dict[str, Any]) -> bool:
    """Whether the file is the one that was stamped. All of its bytes are read; what cannot be is not."""
    try:
        return has_size(file, told) and _read(file) == told["sha256"]
    except OSError:
        return False


def sha256(file: Path) -> str:
    """The digest of a file's bytes, read once per process for each (path, size, time of change)."""
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _sha256(file: Path, *_: int) -> str:
    return _read(file)


def _read(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
