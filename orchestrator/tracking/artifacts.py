"""Where the artifacts of an MLflow database are kept, such that they are found wherever both are moved.

Beside a sqlite file lies `mlartifacts/`, and the database names what is in it as `mlflow-artifacts:/...`,
relative to whatever folder the server is given. MLflow itself writes absolute paths, and so did earlier
versions: `make_relative` rewrites those.
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
BUSY_SECONDS = 60.0  # until whoever writes to the database is taken for stuck


def folder_beside(uri: str) -> Path | None:
    """The folder for artifacts of the sqlite file at `uri`; None for other databases and for servers."""
    file = sqlite_file(uri)
    return None if file is None else file.parent / FOLDER


def relative_uri(name: str) -> str:
    """The URI of an experiment's artifacts."""
    return f"{SCHEME}/{re.sub(r'[^A-Za-z0-9._-]', '-', name)}"


def path_of(uri: str, folder: Path) -> Path:
    """Where a run whose artifacts have this URI keeps them. ValueError if that is not in `folder`."""
    path = (folder / urlsplit(uri).path.lstrip("/")).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{uri} is not in {folder}")
    return path


def make_relative(uri: str) -> int:
    """Have a sqlite database name the artifacts beside it without saying where that is; returns how many
    names were changed. What does not lie beside it keeps its name, even if it cannot be reached now: it may
    be on a disk that is not mounted. OSError if the database cannot
    be changed."""
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database:
            return _rewrite(database, file.parent / FOLDER)
    except sqlite3.Error as error:
        raise OSError(f"where the artifacts of {file} are cannot be read or changed there: {error}") from None


def _rewrite(database: sqlite3.Connection, folder: Path) -> int:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= {table for table, _, _ in COLUMNS}:
        return 0  # MLflow has not made it yet
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
    """Where a row of the database has its artifacts: in `tail` of the folder `root`. `unused`: it is that of
    an experiment without runs, so that nothing can have been written there."""

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
        if before.startswith("/") and re.fullmatch(r"[\w./-]+", tail):  # else it is another scheme's
            unused = table == "experiments" and row not in used
            yield _Address(table, id_column, column, row, f"{before}/{FOLDER}", tail, unused)


def _lies_beside(address: _Address, folder: Path, moved: Set[str]) -> bool:
    """Whether artifacts are beside the database, or will be: those of a row that has none may be where others
    of the same root are, `moved`; or, if nothing can have been written, where there is a folder for them."""
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
