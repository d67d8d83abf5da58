"""Where the artifacts of an MLflow database are kept, so that both can be moved together.

The folder `mlartifacts/` lies beside the sqlite file. The database addresses its files as
`mlflow-artifacts:/...`, relative to the folder that the server is given. MLflow itself, and earlier versions
of this package, write absolute paths; `make_relative` rewrites those.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy

SCHEME = "mlflow-artifacts:"
FOLDER = "mlartifacts"
COLUMNS = (("experiments", "experiment_id", "artifact_location"), ("runs", "run_uuid", "artifact_uri"))
BUSY_SECONDS = 60.0  # how long to wait for another process that writes to the database


def folder_beside(uri: str) -> Path | None:
    """The folder for artifacts of the sqlite file at `uri`; None for other databases and for servers."""
    file = sqlite_file(uri)
    return None if file is None else file.parent / FOLDER


def relative_uri(name: str) -> str:
    """The URI of an experiment's artifacts."""
    return f"{SCHEME}/{re.sub(r'[^A-Za-z0-9._-]', '-', name)}"


def path_of(uri: str, folder: Path) -> Path:
    """The folder of a run's artifacts, from their URI. Raises ValueError if it is not in `folder`."""
    path = (folder / urlsplit(uri).path.lstrip("/")).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{uri} is not in {folder}")
    return path


def make_relative(uri: str) -> int:
    """Rewrite the absolute artifact paths of a sqlite database as relative URIs; returns how many were
    changed. Artifacts that do not lie beside the database keep their paths, even if they cannot be reached
    now: their disk may not be mounted. Raises OSError if the database cannot be changed."""
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database:
            return _rewrite(database, file.parent / FOLDER)
    except sqlite3.Error as error:
        raise OSError(f"the artifact paths in {file} cannot be read or changed: {error}") from None


def _rewrite(database: sqlite3.Connection, folder: Path) -> int:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= {table for table, _, _ in COLUMNS}:
        return 0  # MLflow has not created its tables yet
    addresses = [one for column in COLUMNS for one in _addresses(database, *column)]
    moved = {one.root for one in addresses if _has_files(folder / one.tail)}
    changed = [one for one in addresses if _lies_beside(one, folder, moved)]
    for one in changed:
        database.execute(
            f"UPDATE {one.table} SET {one.column} = ? WHERE {one.id_column} = ?",
            (f"{SCHEME}/{one.tail}", one.id),
        )
    database.commit()
    return len(changed)


@dataclass(frozen=True)
class _Address:
    """The artifact path of one row of the database: `tail` in the folder `root`. `unused`: the row is an
    experiment without runs, so nothing can have been written there."""

    table: str
    id_column: str
    column: str
    id: str
    root: str
    tail: str
    unused: bool

    @property
    def exists(self) -> bool:
        return os.path.exists(f"{self.root}/{self.tail}")


def _addresses(database: sqlite3.Connection, table: str, id_column: str, column: str) -> Iterator[_Address]:
    """The absolute paths in a column."""
    used = {name for (name,) in database.execute("SELECT DISTINCT experiment_id FROM runs")}
    rows = database.execute(
        f"SELECT {id_column}, {column} FROM {table} WHERE {column} LIKE ?", (f"%/{FOLDER}/%",)
    )
    for row, uri in rows.fetchall():
        before, _, tail = unquote(uri.removeprefix("file://")).rpartition(f"/{FOLDER}/")
        if before.startswith("/") and re.fullmatch(r"[\w./-]+", tail):  # else it is a URL of another scheme
            unused = table == "experiments" and row not in used
            yield _Address(table, id_column, column, row, f"{before}/{FOLDER}", tail, unused)


def _lies_beside(address: _Address, folder: Path, moved: Set[str]) -> bool:
    """Whether artifacts lie beside the database, or will. A row without files may belong to a root whose
    other files were moved there (`moved`), or it is unused and the old root no longer exists."""
    if _has_files(folder / address.tail):
        return True
    if address.exists:
        return False
    return address.root in moved or (address.unused and folder.is_dir() and not os.path.exists(address.root))


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite database; None for other databases, for servers, and for one in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = sqlalchemy.make_url(uri).database
    return Path(name).absolute() if name else None
