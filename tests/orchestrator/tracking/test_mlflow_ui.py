"""The MLflow UI opens at a sweep's table of trials; a moved store keeps its cards and pictures."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Task
from orchestrator.storage.ledger import Ledger
from orchestrator.tracking import Tracker, default_uri, payloads
from orchestrator.tracking.artifacts import make_relative, path_of
from poisons import Store
from tests.conftest import CPU, finish, start
from tests.orchestrator.browser import browser, visit
from tests.orchestrator.sweeps import plan_of, tiny
from tests.orchestrator.tracking.test_live import Server

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
needs_browser = pytest.mark.skipif(browser() is None, reason="no chromium on this machine to open pages in")
TABLE = {"clean s0", "clean s1", "ops s0", "ops s1", "test/clean_acc", "train/acc", "axis.data.poison"}
TEXT_WITH_TABLE = f"""new Promise(resolve => {{
  const words = {json.dumps(sorted(TABLE))}, end = Date.now() + 50000
  const look = () => {{
    const text = document.body.innerText
    words.every(word => text.includes(word)) || Date.now() > end ? resolve(text) : setTimeout(look, 200)
  }}
  look()
}})"""
HAS_PICTURE = """new Promise(resolve => {
  const end = Date.now() + 50000
  const look = () => {
    const found = [...document.images].some(image => image.naturalHeight > 100)
    found || Date.now() > end ? resolve(found) : setTimeout(look, 200)
  }
  look()
})"""


@dataclass(frozen=True)
class Moved:
    """A moved store of an earlier version, with a sweep of four trials; and a server on it."""

    store: Path
    server: Server
    data_run: str  # the run of its poisoned data set

    @property
    def database(self) -> Path:
        return self.store / "mlflow.db"


def absolute(database: Path) -> None:
    """Rewrite artifact locations as absolute paths, as MLflow and earlier versions write them."""
    place = f"{(database.parent / 'mlartifacts').as_uri()}/"
    with closing(sqlite3.connect(database)) as open_database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            open_database.execute(
                f"UPDATE {table} SET {column} = replace({column}, 'mlflow-artifacts:/', ?)", (place,)
            )
        open_database.commit()


def locations(database: Path) -> list[str]:
    query = (
        "SELECT artifact_location FROM experiments WHERE experiment_id != '0' "
        "UNION ALL SELECT artifact_uri FROM runs"
    )
    with closing(sqlite3.connect(database)) as open_database:
        return [location for (location,) in open_database.execute(query)]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    folder = tmp_path_factory.mktemp("moved")
    store = Store(folder / "before")
    plan = plan_of(tiny(), store)
    for task in plan.tasks:
        run_trial(task.trial, store, device=CPU)
    tracker = Tracker(default_uri(store.root), plan, store)
    tracker.sync()
    ((data_run,),) = tracker.runs(tracker.data_sets).values()
    absolute(store.root / "mlflow.db")
    now = folder / "elsewhere" / "after"
    now.parent.mkdir()
    shutil.move(store.root, now)
    make_relative(default_uri(now))  # as `opsctl ui` does
    server = Server(now / "mlflow.db")
    yield Moved(now, server, data_run.info.run_id)
    server.stop()


def printed(moved: Moved, *options: str, **environment: str) -> dict[str, str]:
    """The links that `opsctl ui` prints, by the experiment's name."""
    command = ("ui", "--tracking-uri", moved.server.uri, *options)
    code, out = finish(start(*command, store=moved.store, **environment))
    assert code == 0, out
    return dict(re.findall(r"^  (.+?) +(http:.+)$", out, re.MULTILINE))


def test_every_experiment_has_a_link_whose_parts_exist(moved: Moved, tmp_path: Path) -> None:
    opened = tmp_path / "opened.txt"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    script.chmod(0o755)
    found = printed(moved, "--open", BROWSER=str(script))
    assert list(found) == ["tiny", "opsctl data sets"]
    assert opened.read_text() == found["tiny"]
    for name, link in found.items():
        match = re.fullmatch(rf"{moved.server.uri}/#/experiments/(\d+)/runs\?(.+)", link)
        assert match is not None, link
        query = parse_qs(match[2])
        assert query["workflowType"] == ["machine_learning"]
        with closing(sqlite3.connect(moved.database)) as database:
            tags = dict(
                database.execute(
                    "SELECT key, value FROM experiment_tags WHERE experiment_id = ?", (match[1],)
                )
            )
            names = [
                row[0]
                for row in database.execute(
                    "SELECT name FROM experiments WHERE experiment_id = ?", (match[1],)
                )
            ]
        assert names == [name]
        (key,) = query["viewStateShareKey"]
        view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        assert json.loads(view["state"])["selectedColumns"]


def test_cards_and_pictures_are_served_where_the_store_is_now(moved: Moved) -> None:
    base = f"{moved.server.uri}/ajax-api/2.0/mlflow/artifacts/list?run_id={moved.data_run}"
    with urllib.request.urlopen(base, timeout=60) as reply:
        files = {file["path"] for file in json.load(reply)["files"]}
    assert files == {"card.md", "picture.png", "record.json"}
    picture = f"{moved.server.uri}/get-artifact?path=picture.png&run_uuid={moved.data_run}"
    with urllib.request.urlopen(picture, timeout=60) as reply:
        assert reply.read() == next(moved.store.glob("mlartifacts/**/picture.png")).read_bytes()
    assert [place for place in locations(moved.database) if not place.startswith("mlflow-artifacts:/")] == []


@needs_browser
def test_a_link_opens_the_table_of_trials_in_a_fresh_browser(moved: Moved, tmp_path: Path) -> None:
    link = printed(moved)["tiny"]
    seen = visit(link, tmp_path, width=1600, ask={"text": TEXT_WITH_TABLE})
    assert set(seen.results["text"].splitlines()) >= TABLE, seen.results["text"]
    assert "Traces\n0" not in seen.results["text"]
    outside = [
        url for url in seen.requests if url.startswith("http") and not url.startswith(moved.server.uri)
    ]
    assert outside == []


@needs_browser
def test_the_page_of_a_data_set_shows_its_picture(moved: Moved, tmp_path: Path) -> None:
    experiment = re.search(r"experiments/(\d+)", printed(moved)["opsctl data sets"])
    assert experiment is not None
    page = f"{moved.server.uri}/#/experiments/{experiment[1]}/runs/{moved.data_run}/artifacts/picture.png"
    assert visit(page, tmp_path, width=1600, ask={"shown": HAS_PICTURE}).results["shown"]


# -- names of artifacts


@pytest.fixture
def tracker(store: Store) -> Tracker:
    tracker = Tracker(default_uri(store.root), plan_of(tiny(), store), store)
    task: Task = tracker.plan.tasks[0]
    tracker.start(task, payloads.now())
    assert not Ledger(store.where).done()
    return tracker


def test_artifacts_that_are_not_beside_the_database_keep_their_paths(
    tracker: Tracker, store: Store, tmp_path: Path
) -> None:
    database = store.root / "mlflow.db"
    other = tmp_path / "other" / "mlartifacts" / "tiny"
    other.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as open_database:
        open_database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'tiny'", (other.as_uri(),)
        )
        open_database.execute("UPDATE runs SET artifact_uri = 's3://bucket/mlartifacts/x/artifacts'")
        open_database.commit()
    before = locations(database)
    assert make_relative(default_uri(store.root)) == 0
    assert locations(database) == before
    shutil.rmtree(other.parent)
    (store.root / "mlartifacts").mkdir(exist_ok=True)
    assert make_relative(default_uri(store.root)) == 0, "it may be on a disk that is not mounted"
    assert locations(database) == before


def test_an_experiment_without_runs_has_its_artifacts_beside_the_database_if_its_old_folder_is_gone(
    tracker: Tracker, store: Store, tmp_path: Path
) -> None:
    database, gone = store.root / "mlflow.db", (tmp_path / "gone" / "mlartifacts" / "x").as_uri()
    with closing(sqlite3.connect(database)) as open_database:
        open_database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'opsctl data sets'", (gone,)
        )
        open_database.commit()
    assert not (store.root / "mlartifacts").exists()
    assert make_relative(default_uri(store.root)) == 0, "there is no folder for it"
    (store.root / "mlartifacts").mkdir()
    assert make_relative(default_uri(store.root)) == 1
    assert "mlflow-artifacts:/x" in locations(database)


def test_a_copied_store_has_its_own_artifacts(tracker: Tracker, store: Store, tmp_path: Path) -> None:
    """The original still exists, and so do its paths."""
    absolute(store.root / "mlflow.db")
    run_folder = store.root / "mlartifacts" / "tiny"
    run_folder.mkdir(parents=True)
    (run_folder / "file").write_text("x")
    shutil.copytree(store.root, tmp_path / "copy")
    count = make_relative(default_uri(tmp_path / "copy"))
    assert count == len(locations(tmp_path / "copy" / "mlflow.db")) > 2
    assert make_relative(default_uri(tmp_path / "copy")) == 0


def test_no_artifact_is_written_outside_its_folder(tmp_path: Path) -> None:
    assert path_of("mlflow-artifacts:/a/b", tmp_path) == tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="is not in"):
        path_of("mlflow-artifacts:/../b", tmp_path)
