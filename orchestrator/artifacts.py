"""Where the artifacts of an MLflow database are kept, such that they are found wherever both are moved.

Beside a sqlite file lies `mlartifacts/`, and the database names what is in it as `mlflow-artifacts:/...`,
relative to whatever folder the server is given. MLflow itself writes absolute paths, and so did earlier
versions: `make_relative` rewrites those.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy

SCHEME = "mlflow-artifacts:"
FOLDER = "mlartifacts"
COLUMNS = (("experiments", "experiment_id", "artifact_location"), ("runs", "run_uuid", "artifact_uri"))
BUSY_SECONDS = 60.0  # until whoever writes to the database is taken for stuck


def folder_beside(uri: str) -> Path | None:
    """The folder for artifacts of the sqlite file at `uri`; None for other databases and for servers."""
    file = _sqlite_file(uri)
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
    names were changed. What lies elsewhere, and not beside it, keeps its name. OSError if the database cannot
    be changed."""
    file = _sqlite_file(uri)
    if file is None or not file.exists():
        return 0
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database:
            return _rewrite(database, file.parent / FOLDER)
    except sqlite3.Error as error:
        raise OSError(f"where the artifacts of {file} are cannot be read or changed there: {error}") from None


def _rewrite(database: sqlite3.Connection, folder: Path) -> int:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    changed = 0
    for table, key, column in COLUMNS:
        if table in tables:
            rows = database.execute(
                f"SELECT {key}, {column} FROM {table} WHERE {column} LIKE ?", (f"%/{FOLDER}/%",)
            )
            new = [(name, row) for row, name in _relative(rows.fetchall(), folder)]
            database.executemany(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", new)
            changed += len(new)
    database.commit()
    return changed


def _relative(rows: list[tuple[str, str]], folder: Path) -> Iterator[tuple[str, str]]:
    """Of these keys and URIs, the keys and new URIs of those that are to be changed."""
    for key, uri in rows:
        path = unquote(uri.removeprefix("file://"))
        tail = path.rpartition(f"/{FOLDER}/")[2]
        plain = path.startswith("/") and re.fullmatch(r"[\w./-]+", tail)  # else it is another scheme's
        if plain and (os.path.exists(folder / tail) or not os.path.exists(path)):
            yield key, f"{SCHEME}/{tail}"


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite"):
        return None
    name = sqlalchemy.make_url(uri).database
    return Path(name).absolute() if name else None
