"""The database of a tracking store: its driver, and a lock for creating or upgrading its tables.

MLflow's migrations take no lock, and concurrent ones break a database. So every process that opens one holds
a lock: a file beside a sqlite database, an advisory lock in PostgreSQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock

DATABASE = "mlflow.db"  # the file of a store's own database
PATIENCE_SECONDS = 120  # how long to wait for the lock
CONNECT_SECONDS = 10
LOCK = 0x6F707363746C  # an arbitrary number for PostgreSQL: "opsctl" in ASCII


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def with_driver(uri: str) -> str:
    """The address, with the driver that we install added if it is a PostgreSQL URL without one; SQLAlchemy's
    default varies between versions."""
    return re.sub("^postgres(ql)?://", "postgresql+psycopg2://", uri)


@contextmanager
def first_use(uri: str) -> Iterator[None]:
    """Hold the lock of the database at `uri`; a server has none.

    Quickly raises OSError or SQLAlchemyError if the database cannot be reached, and ImportError if its driver
    is not installed.
    """
    backend = "" if is_server(uri) or ":" not in uri else sqlalchemy.make_url(uri).get_backend_name()
    if backend == "sqlite":
        with _beside_file(uri):
            yield
    elif backend == "postgresql":
        with _in_database(uri):
            yield
    else:
        yield


@contextmanager
def _beside_file(uri: str) -> Iterator[None]:
    name = sqlalchemy.make_url(uri).database
    if not name:  # in memory, private to this process
        yield
        return
    file = Path(name).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=PATIENCE_SECONDS):
        yield


@contextmanager
def _in_database(uri: str) -> Iterator[None]:
    engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": CONNECT_SECONDS})
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SET lock_timeout = '{PATIENCE_SECONDS}s'"))
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({LOCK})"))
            yield  # closing the connection releases the lock
    finally:
        engine.dispose()
