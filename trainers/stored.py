"""Readers of the files that opsctl reads back: one reader per kind of file, which validates it.

A file may be truncated, written by another version, or malicious. So a reader limits size and nesting before
it parses, refuses numbers that are not finite, and checks the type of every field that is used. Imports
nothing heavy.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

T = TypeVar("T")
MB = 10**6
HUGE = re.compile(rb"[0-9][eE][+]?[0-9]{3,}\s*(?:[],}]|$)|[0-9]{300}")


class DamagedError(ValueError):
    """A file is not valid for its kind; the message says why, in one line."""


def open_file(path: Path, *, links: bool = False) -> BufferedReader:
    """A regular file, opened for reading without blocking. Raises DamagedError for a named pipe, a socket, a
    device and, unless `links` are followed, a symbolic link; and OSError."""
    follow = 0 if links else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | follow)
    except OSError as error:
        link = error.errno == errno.ELOOP and path.is_symlink()  # else a folder above it is the link
        if link or error.errno == errno.ENXIO:
            what = "a symbolic link" if link else "a socket"
            raise DamagedError(f"it is {what}, not an ordinary file") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise DamagedError(f"it is {'a named pipe' if stat.S_ISFIFO(mode) else 'a device'}, not an ordinary file")


def open_regular(path: Path) -> BufferedReader | None:
    """A regular file, opened by `open_file`; None if there is none of that name. Raises OSError."""
    try:
        return open_file(path)
    except (DamagedError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def read_regular(path: Path, most: int) -> bytes | None:
    """The bytes of a file, at most `most` + 1; None if there is no regular file of that name."""
    if (file := open_regular(path)) is None:
        return None
    with file:
        return file.read(most + 1)


class JsonFile(Generic[T]):
    """The reader of one kind of JSON file with content of `type` (a TypedDict, or another type that pydantic
    validates) and at most `limit` bytes."""

    def __init__(
        self, type: Any, *, limit: int = MB
    ) -> None:  # of T; mypy does not accept a TypedDict as type[T]
        self._type, self.limit = type, limit
        self._adapter: TypeAdapter[T] | None = None

    def read(self, data: bytes) -> T:
        """The content parsed from these bytes. Raises DamagedError."""
        return self.check(self._parsed(data))

    def read_file(self, path: Path) -> T | None:
        """The content of a file, or None if there is no such file. Raises DamagedError, and OSError."""
        data = read_regular(path, self.limit)
        return None if data is None else self.read(data)

    def check(self, value: Any) -> T:
        """A parsed value, validated. Raises DamagedError."""
        if self._adapter is None:  # created on first use: it takes milliseconds
            self._adapter = TypeAdapter(self._type)
        try:
            return self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part)[:40] for part in first["loc"]) or "the file"
            raise DamagedError(f"{place}: {first['msg']}") from None

    def _parsed(self, data: bytes) -> Any:
        if not data:
            raise DamagedError("it is empty")
        if len(data) > self.limit:
            raise DamagedError(f"it has {len(data):,} bytes, more than {self.limit:,}")
        try:
            value = from_json(data, allow_inf_nan=False, cache_strings="keys")  # at most 200 levels
            if HUGE.search(data):  # 1e999 would be infinite
                json.dumps(value, allow_nan=False)
            return value
        except ValueError as error:
            raise DamagedError(f"it is not JSON: {error}") from None


OBJECT = JsonFile[dict[str, Any]](dict[str, Any])
"""An object with any content, such as a spec, which is validated later."""
VALUE = JsonFile[Any](Any)
"""Any JSON value."""
