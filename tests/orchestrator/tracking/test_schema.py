"""MLflow's database is complete or absent, whenever the process that creates or migrates it is killed; a damaged one
is moved aside and filled again."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from mlflow import MlflowClient
from mlflow.store.db import utils

from orchestrator.execution.trial import run_trial
from orchestrator.tracking import Tracker, default_uri, schema
from orchestrator.tracking.artifacts import sqlite_file
from poisons import Store
from tests.conftest import CPU, ROOT, Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write
from trainers import InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
PREPARE = "import sys; from orchestrator.tracking.schema import prepare; print(prepare(sys.argv[1]))"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with all tables, all empty."""
    folder = tmp_path_factory.mktemp("whole")
    assert schema.prepare(default_uri(folder)) is None
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture
def database(tmp_path: Path, whole: bytes) -> Path:
    file = tmp_path / "store" / "mlflow.db"
    file.parent.mkdir()
    file.write_bytes(whole)
    return file


def uri_of(file: Path) -> str:
    return f"sqlite:///{file}"


def beside(file: Path) -> list[str]:
    """The names of the files beside a database."""
    return sorted(path.name for path in file.parent.glob(f"{file.name}?*"))


def half_migrated(file: Path) -> None:
    """The state after a killed migration: changed tables, but no new revision number."""
    with closing(sqlite3.connect(file)) as database:
        (newest,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        script = schema.ScriptDirectory.from_config(utils._get_alembic_config(""))
        before = script.get_revision(newest).down_revision
        database.execute("UPDATE alembic_version SET version_num = ?", (before,))
        database.commit()


def make_older(file: Path) -> None:
    """Replace a database with one as MLflow 1.0 created it."""
    file.unlink(missing_ok=True)
    engine = schema._engine(file)
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "451aebb31d03")
    engine.dispose()


def experiments(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as database:
        return [name for (name,) in database.execute("SELECT name FROM experiments ORDER BY name")]


@pytest.mark.parametrize("size", [1, 150_000, 400_000])
def test_a_process_killed_while_creating_tables_leaves_no_database(tmp_path: Path, size: int) -> None:
    file = tmp_path / "mlflow.db"
    maker = subprocess.Popen([sys.executable, "-c", PREPARE, uri_of(file)], cwd=ROOT)
    new = tmp_path / f"mlflow.db.new-{maker.pid}"
    while not (new.exists() and new.stat().st_size >= size):
        assert maker.poll() is None
        time.sleep(0.001)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert not file.exists()
    assert schema.prepare(uri_of(file)) is None
    assert MlflowClient(uri_of(file)).search_experiments()
    assert beside(file) == [], "what was begun is gone"


def test_a_complete_database_is_left_unchanged(database: Path, whole: bytes) -> None:
    assert schema.prepare(uri_of(database)) is None
    assert database.read_bytes() == whole
    assert beside(database) == []


def test_an_older_schema_is_migrated_and_keeps_its_data(database: Path) -> None:
    make_older(database)
    with closing(sqlite3.connect(database)) as old:
        old.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')")
        old.commit()
    assert schema.prepare(uri_of(database)) is None
    assert "kept" in experiments(database)
    assert "kept" in [one.name for one in MlflowClient(uri_of(database)).search_experiments()]
    assert beside(database) == []


@pytest.mark.parametrize("damage", ["half", "garbage", "short", "middle"])
def test_a_damaged_database_is_moved_aside_with_its_journals(
    database: Path, whole: bytes, damage: str
) -> None:
    if damage == "half":
        half_migrated(database)
    elif damage == "garbage":
        database.write_bytes(b"no database" * 1000)
    elif damage == "short":
        database.write_bytes(whole[: len(whole) // 2])
    else:
        database.write_bytes(whole[:8192] + bytes(8192) + whole[16384:])
    before = database.read_bytes()
    database.with_name("mlflow.db-wal").write_bytes(b"")
    warning = schema.prepare(uri_of(database))
    assert warning is not None
    assert "was damaged" in warning
    assert "\n" not in warning
    names = beside(database)
    assert len(names) in (1, 2), names
    assert all(name.startswith("mlflow.db.damaged-") for name in names)
    assert (database.parent / names[0]).read_bytes() == before, "nothing is lost"
    assert MlflowClient(uri_of(database)).search_experiments()


def test_journals_of_a_deleted_database_are_not_applied_to_the_next(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.with_name("mlflow.db-journal").write_bytes(b"of another database")
    assert schema.prepare(uri_of(file)) is None
    assert [name.startswith("mlflow.db.damaged-") for name in beside(file)] == [True]


def test_a_file_that_is_not_a_database_is_moved_only_if_it_has_our_name(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("Not a database. " * 20)
    with pytest.raises(
        InputError, match=r"README.md is not an MLflow database .*choose another --tracking-uri"
    ):
        schema.prepare(uri_of(file))
    assert file.read_text().startswith("Not a database")


def test_a_database_locked_by_a_writer_does_not_count_as_damaged(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    half_migrated(database)
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="database is locked"):
            schema.prepare(uri_of(database))
    assert beside(database) in ([], ["mlflow.db-journal"])


def test_a_database_of_a_newer_mlflow_is_left_unchanged(database: Path) -> None:
    with closing(sqlite3.connect(database)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        newer.commit()
    with pytest.raises(InputError, match="was written by a newer MLflow"):
        schema.prepare(uri_of(database))
    assert beside(database) == []


def test_track_rebuilds_a_damaged_database_from_the_results(
    store: Store, tmp_path: Path, opsctl: Opsctl
) -> None:
    sweep = tiny(grid={"seed": [0, 1]})
    plan = plan_of(sweep, store)
    for task in plan.tasks:
        run_trial(task.trial, store, device=CPU)
    file = sqlite_file(default_uri(store.root))
    assert file is not None
    assert schema.prepare(default_uri(store.root)) is None
    half_migrated(file)
    code, out, err = opsctl("track", write(tmp_path, sweep), "--store", store.root)
    assert code == 0, err
    assert "2 trials sent, 0 were there already" in out
    assert (out + err).count("was damaged") == 1
    runs = Tracker(default_uri(store.root), plan, store).runs()
    assert {key: [run.info.status for run in group] for key, group in runs.items()} == {
        task.key: ["FINISHED"] for task in plan.tasks
    }
