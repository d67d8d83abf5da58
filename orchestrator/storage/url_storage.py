"""Storage at an fsspec URL, for example in an object store.

There is no rename: one object appears whole, and of several the one that is written last marks all as
complete. The server's address and the credentials come from fsspec and the server's library: for S3 from the
usual AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on, or fsspec's configuration files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from orchestrator.storage.storage import Kept, Storage, check_safe, safe
from trainers.errors import InputError
from trainers.redaction import redacted

THREADS = 32  # concurrent reads
MARK = "record.json"
LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
# else s3fs requests the size of each object before it reads it
READING: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}
CHANGED = ("LastModified", "mtime", "updated", "last_modified", "created")  # in different file systems
_memory = threading.Lock()


class UrlStorage(Storage):
    """What lies below `where`, such as `s3://bucket/prefix`.

    `create` is one step on S3, Google and Azure, which can be asked to write only what is not there, and in
    this process's `memory://`; elsewhere it checks first and then writes, so that of two who try within the
    same moment both may succeed.
    """

    def __init__(self, where: str) -> None:
        """InputError for an unknown scheme, or one whose library is not installed."""
        self.where = where
        self.scheme = where.partition("://")[0]
        try:
            self.fs, root = fsspec.url_to_fs(where, use_listings_cache=False)
        except ImportError as error:
            library = LIBRARIES.get(self.scheme)
            hint = f"pip install {library}" if library else "install the one that is named there"
            raise InputError(f"{where} needs a library that is not installed ({error}): {hint}") from None
        except ValueError as error:
            raise InputError(f"{where} cannot be opened: {error}") from None
        self.root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        with self._as_os_error():
            try:
                return bytes(self.fs.cat_file(self._path(name), **READING.get(self.scheme, {})))
            except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                self._refuse(error, name)
                return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes | None]:
        wanted = list(names)
        with ThreadPoolExecutor(THREADS) as pool:
            return dict(zip(wanted, pool.map(self.read, wanted), strict=True))

    def write(self, name: str, data: bytes) -> None:
        with self._as_os_error():
            self.fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes, *, lasting: bool = True) -> bool:
        with self._as_os_error():
            for pause in (0.05, 0.2, 0.5, 1.0):
                try:
                    return self._create(self._path(name), data)
                except OSError as error:
                    if _code(error) != "ConditionalRequestConflict":  # S3: another write is in progress
                        raise
                time.sleep(pause)
            return self._create(self._path(name), data)

    def remove(self, name: str) -> None:
        with self._as_os_error():
            try:
                self.fs.rm_file(self._path(name))
            except FileNotFoundError as error:
                _refuse_bucket(error)

    def move(self, name: str, to: str) -> None:
        with self._as_os_error():
            try:
                self.fs.mv(self._path(name), self._path(to))
            except (FileNotFoundError, PermissionError) as error:
                self._refuse(error, name)

    def names(self, folder: str) -> list[str]:
        with self._as_os_error():
            try:
                found = self.fs.ls(self._path(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                self._refuse(error, f"{folder}/")
                return []
        return sorted(filter(safe, {path.rstrip("/").rpartition("/")[2] for path in found}))

    def holders(self, folder: str, name: str) -> set[str]:
        parts = [file.split("/") for file in self.files(folder)]
        return {part[0] for part in parts if part[1:] == [name]}

    def files(self, folder: str) -> dict[str, Kept]:
        top = self._path(folder)
        with self._as_os_error():
            try:
                found = self.fs.find(top, detail=True)
            except (FileNotFoundError, PermissionError) as error:
                self._refuse(error, f"{folder}/")
                return {}
        return {
            path[len(top) + 1 :]: Kept(info["size"] or 0, _changed(info))
            for path, info in found.items()
            if path.startswith(f"{top}/") and safe(path[len(top) + 1 :])
        }

    def upload(self, file: Path, name: str) -> None:
        with self._as_os_error():
            self.fs.put_file(str(file), self._path(name))

    def download(self, name: str, file: Path) -> bool:
        with self._as_os_error():
            try:
                self.fs.get_file(self._path(name), str(file))
            except (FileNotFoundError, PermissionError) as error:
                self._refuse(error, name)
                return False
        return True

    def remove_all(self, name: str) -> bool:
        inside = sorted(self.files(name), key=lambda file: file != MARK)
        alone = not inside and self.read(name) is not None
        for file in [f"{name}/{one}" for one in inside] or [name] * alone:
            self.remove(file)
        return bool(inside) or alone

    def tidy(self) -> None:
        """An object is there whole or not at all."""

    def _path(self, name: str) -> str:
        return f"{self.root}/{check_safe(name)}"

    def _refuse(self, error: OSError, name: str) -> None:
        """Raise an error unless it means that a file, or a folder (`name/`), does not exist. S3 answers
        "forbidden" for missing files to users who may list only a part of the bucket: then the listing
        decides."""
        _refuse_bucket(error)
        if not isinstance(error, PermissionError):
            return
        if self.scheme != "s3":
            raise error
        bucket, _, key = f"{self.root}/{name}".partition("/")
        found = self.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        if found and (key.endswith("/") or found[0]["Key"] == key):  # the first key with this prefix
            raise error

    def _create(self, path: str, data: bytes) -> bool:
        try:
            if self.scheme == "memory":
                with _memory:
                    self.fs.pipe_file(path, data, mode="create")
            else:
                self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _code(error) == "PreconditionFailed":
                return False
            raise
        return True

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        """Turns any error into an OSError that names the storage."""
        try:
            yield
        except Exception as error:
            message = redacted(f"{self.shown}: {error or type(error).__name__}")
            raise type_of(error)(message) from error


def type_of(error: Exception) -> type[OSError]:
    return PermissionError if isinstance(error, PermissionError) else OSError


def _code(error: OSError) -> str:
    """The server's error code, if it gave one."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _refuse_bucket(error: OSError) -> None:
    """Raise an error for a missing bucket, which does not mean that a file is missing."""
    if _code(error) == "NoSuchBucket":
        raise OSError("there is no such bucket") from error


def _changed(info: dict[str, Any]) -> float | None:
    found = next((info[name] for name in CHANGED if info.get(name) is not None), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found.timestamp() if isinstance(found, datetime) else found
