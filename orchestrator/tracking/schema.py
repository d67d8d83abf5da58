"""The tables of a sqlite tracking store: created or migrated in a temporary file, which is then renamed.

MLflow's migrations are many transactions. A process that is killed between them leaves a database that no
version can open, so migrations never run on the file in use. A damaged file (from an earlier version or a
broken disk) is moved aside: MLflow is a view of the ledger, and `opsctl track` fills a new one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.store.db import utils
from sqlalchemy.exc import DBAPIError

from orchestrator.tracking.artifacts import sqlite_file
from orchestrator.tracking.database import DATABASE
from poisons.durable import flush
from trainers import InputError

HEADER = b"SQLite format 3\0"  # the first bytes of a database that is not empty
BESIDE = ("-journal", "-wal", "-shm")  # suffixes of the files that sqlite keeps beside a database
BUSY_SECONDS = 60.0  # how long to wait for another process that writes to the database
CHECKED_BYTES = 2**28  # larger databases are not checked in full before use
# errors of the machine, not of the file, which then stays where it is
ELSEWHERE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}


class _DamagedError(Exception):
    """The content of a database file is unusable."""


def prepare(uri: str) -> str | None:
    """Create or migrate the tables in the sqlite file at `uri`; does nothing for other stores.

    Call it under the lock of `database.first_use`. Returns a warning for the user if a damaged file was moved
    aside. Raises OSError if the file cannot be read or written, InputError if it is not a database that we
    may move, or if a newer MLflow wrote it.
    """
    file = sqlite_file(uri)
    if file is None:
        return None
    for name in ("mlflow", "alembic"):  # they log every migration, and a traceback for every error
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for left in file.parent.glob(f"{file.name}.new-*"):  # left by a killed process; we hold the lock
        left.unlink(missing_ok=True)
    try:
        with _errors(file):
            if not (file.exists() and file.stat().st_size):
                _move_aside(file, *BESIDE)  # remains of a deleted database
                _create(file)
            elif not _is_current(file):
                _upgrade(file)
    except _DamagedError as error:
        if file.name != DATABASE and not _is_sqlite(file):
            raise InputError(
                f"{file} is not an MLflow database ({error}): choose another --tracking-uri"
            ) from None
        aside = _move_aside(file, *BESIDE, "")
        with _errors(file):
            _create(file)
        return (
            f"{file} was damaged ({error}) and has been renamed to {aside.name}; it is replaced by a new "
            "database, and `opsctl track FILE` sends it a sweep's results again"
        )
    return None


def _is_current(file: Path) -> bool:
    """Whether the database has all tables, at the revision of the installed MLflow."""
    engine = _engine(file)
    try:
        with engine.connect() as connection:
            if file.stat().st_size <= CHECKED_BYTES:
                found = connection.execute(sqlalchemy.text("PRAGMA quick_check(1)")).scalar()
                if found != "ok":
                    raise _DamagedError(" ".join(str(found).split()))
            revision = MigrationContext.configure(connection).get_current_revision()
        return revision == _newest() and utils._all_tables_exist(engine)
    finally:
        engine.dispose()


def _create(file: Path) -> None:
    """Create a database with MLflow's tables, all empty."""
    with _replacing(file) as new:
        _migrate(new)


def _upgrade(file: Path) -> None:
    """Migrate a database of an older MLflow, while holding its write lock."""
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as old, _replacing(file) as new:
        old.execute(
            "PRAGMA journal_mode = DELETE"
        )  # a log that stays behind would be applied to the new file
        old.execute("BEGIN IMMEDIATE")
        with (
            closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as source,
            closing(sqlite3.connect(new)) as copy,
        ):
            source.backup(copy)
        _migrate(new)
        if not _is_current(new):
            raise _DamagedError("tables are missing")


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file`, which atomically and durably replaces it at the end."""
    new = file.with_name(f"{file.name}.new-{os.getpid()}")
    try:
        yield new
        flush(new)
        os.replace(new, file)
        flush(file.parent)
    finally:
        for end in ("", *BESIDE):
            new.with_name(new.name + end).unlink(missing_ok=True)


def _migrate(file: Path) -> None:
    engine = _engine(file)
    try:
        with engine.connect() as connection:
            begun = MigrationContext.configure(connection).get_current_revision() is not None
        (utils._upgrade_db if begun else utils._initialize_tables)(engine)
    finally:
        engine.dispose()


def _move_aside(file: Path, *ends: str) -> Path:
    """Rename a database, or some of the files that sqlite keeps with it, to `mlflow.db.damaged-<time>`. The
    journals go first: one that stayed behind would be applied to the next database."""
    aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    while any(aside.parent.glob(f"{aside.name}*")):
        aside = aside.with_name(f"{aside.name}x")
    for end in ends:
        if (found := file.with_name(file.name + end)).exists():
            found.rename(aside.with_name(aside.name + end))
    flush(file.parent)
    return aside


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Translate the errors of MLflow and sqlite: _DamagedError if the file is at fault, OSError if the
    machine is, InputError if a newer MLflow wrote the file."""
    try:
        yield
    except CommandError as error:
        raise InputError(
            f"{file} was written by a newer MLflow ({error}): install that version (pip install -U mlflow)"
        ) from None
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without its details
        if code in ELSEWHERE:
            raise OSError(f"{file}: {cause}") from None
        raise _DamagedError(str(cause)) from None


def _newest() -> str:
    """The table revision of the installed MLflow."""
    heads = ScriptDirectory.from_config(utils._get_alembic_config("")).get_heads()
    return str(heads[0])


def _engine(file: Path) -> sqlalchemy.Engine:
    url = sqlalchemy.URL.create("sqlite", database=str(file))
    return sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_SECONDS})


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(HEADER)) == HEADER
