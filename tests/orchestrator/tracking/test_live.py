"""A running sweep is sent to MLflow in batches, without blocking; an unreachable store gets the rest later."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.entities import Run, ViewType

from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Task
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.leases import Leases
from orchestrator.storage.records import Result
from orchestrator.tracking import KEY, TROUBLE, LiveTracker, Tracker, default_uri, payloads
from orchestrator.tracking import server as mlflow_server
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import plan_of, tiny
from tests.orchestrator.tracking.test_tracker import as_recorded, epochs, parent, runs

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def tracker(store: Store) -> Tracker:
    return Tracker(default_uri(store.root), plan_of(tiny(), store), store)


@pytest.fixture
def task(tracker: Tracker) -> Task:
    return tracker.plan.tasks[0]


@pytest.fixture
def record(task: Task, store: Store) -> Result:
    return run_trial(task.trial, store, device=CPU)


def live(tracker: Tracker, warnings: list[str], *, every: float = 0.1, patience: float = 60) -> LiveTracker:
    watcher = LiveTracker(tracker, warnings.append, every=every, patience=patience)
    watcher.sweep_started(tracker.plan)
    return watcher


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def test_epochs_arrive_while_a_trial_runs_and_not_twice(tracker: Tracker, task: Task, record: Result) -> None:
    warnings: list[str] = []
    watcher = live(tracker, warnings)
    watcher.trial_started(task)
    watcher.trial_progress(task, record["history"][:1])
    wait_until(lambda: runs(tracker) and epochs(tracker, runs(tracker)[0], "train/loss"))
    (run,) = runs(tracker)
    assert run.info.status == "RUNNING"
    watcher.trial_progress(task, record["history"][:1])  # a trial that goes on tells all again
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    (same,) = runs(tracker)
    assert same.info.run_id == run.info.run_id
    assert same.info.status == "FINISHED"
    assert epochs(tracker, same, "train/loss") == as_recorded(record, "train/loss")
    assert same.data.metrics["seconds"] == record["seconds"]
    assert watcher.complete
    assert tracker.sync() == 0
    assert warnings == []


@pytest.mark.parametrize("lost", ["the first epoch", "an epoch between"])
def test_epochs_whose_report_was_lost_are_sent_with_the_record(lost: str, store: Store) -> None:
    """A worker does not repeat what it reported: the machine in between may have died, or its cable be out."""
    sweep = tiny(grid={"seed": [0]})
    sweep["base"]["train"] = {**sweep["base"]["train"], "epochs": 4}
    tracker = Tracker(default_uri(store.root), plan_of(sweep, store), store)
    (task,) = tracker.plan.tasks
    record = run_trial(task.trial, store, device=CPU)
    arrived = record["history"][1:2] if lost == "the first epoch" else record["history"][:1]
    watcher = live(tracker, [])
    watcher.trial_started(task)
    watcher.trial_progress(task, arrived)
    wait_until(lambda: runs(tracker) and epochs(tracker, runs(tracker)[0], "train/loss"))
    watcher.trial_progress(task, record["history"][3:])
    wait_until(lambda: len(epochs(tracker, runs(tracker)[0], "train/loss")) == 2)
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")
    assert tracker.sync() == 0


def test_a_short_trial_is_sent_in_one_batch(tracker: Tracker, task: Task, record: Result) -> None:
    watcher = live(tracker, [], every=60)
    watcher.trial_started(task)
    watcher.trial_progress(task, record["history"])
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")


def test_a_retried_trial_ends_with_the_numbers_of_its_record(
    tracker: Tracker, task: Task, record: Result
) -> None:
    watcher = live(tracker, [])
    watcher.trial_started(task)
    watcher.trial_progress(task, [{"epoch": 1.0, "train/loss": 99.0}])
    wait_until(lambda: runs(tracker))
    watcher.trial_retried(task, "its worker died")
    watcher.trial_started(task)
    watcher.trial_progress(task, record["history"])
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")


def test_a_failure_is_sent_and_replaced_when_the_trial_succeeds_later(
    tracker: Tracker, task: Task, store: Store
) -> None:
    watcher = live(tracker, [])
    watcher.trial_started(task)
    watcher.trial_failed(task, "Boom: no")
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert (run.info.status, run.data.tags["opsctl.error"]) == ("FAILED", "Boom: no")
    run_trial(task.trial, store, device=CPU)
    assert tracker.sync() == 1
    assert [run.info.status for run in runs(tracker)] == ["FINISHED"]


def every_run(tracker: Tracker) -> list[Run]:
    """The runs of trials, including deleted ones."""
    found = tracker.client.search_runs([tracker.experiment], run_view_type=ViewType.ALL)
    return [run for run in found if KEY in run.data.tags]


def again(tracker: Tracker) -> Tracker:
    """The tracker of another driver, later."""
    return Tracker(tracker.connection.uri, tracker.plan, tracker.store)


@pytest.mark.parametrize("how", ["interrupted", "killed", "failed", "killed and tracked"])
def test_a_resumed_trial_is_one_run(tracker: Tracker, task: Task, record: Result, how: str) -> None:
    """Only the second driver finishes the trial and writes its record."""
    ledger, rows = tracker.ledger, record["history"]
    tracker.ledger.storage.remove(f"trials/{task.key}/result.json")
    if how.startswith("killed"):
        tracker.start(task, payloads.now(), rows=[(payloads.now(), rows[0])])
    else:
        watcher = live(tracker, [])
        watcher.trial_started(task)
        watcher.trial_progress(task, rows[:1])
        if how == "failed":
            ledger.fail(task.key, {"error": "Boom", "traceback": None})
            watcher.trial_failed(task, "Boom")
        watcher.sweep_ended()
    if how == "killed and tracked":
        again(tracker).sync()
    (first,) = every_run(tracker)
    expected = {
        "interrupted": "KILLED",
        "killed": "RUNNING",
        "failed": "FAILED",
        "killed and tracked": "KILLED",
    }
    assert first.info.status == expected[how]

    ledger.forget(task.key)  # as opsctl retry does
    watcher = live(again(tracker), [])
    watcher.trial_started(task)
    watcher.trial_progress(task, rows[:1])  # a trial that goes on tells all again
    wait_until(lambda: every_run(tracker)[0].info.status == "RUNNING")
    watcher.trial_progress(task, rows)
    wait_until(lambda: len(epochs(tracker, first, "train/loss")) == len(rows))
    ledger.publish(task.key, record)
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    again(tracker).sync()
    (run,) = every_run(tracker)
    assert (run.info.run_id, run.info.status) == (first.info.run_id, "FINISHED")
    assert "opsctl.error" not in run.data.tags
    for metric in rows[0].keys() - {"epoch"}:
        assert epochs(tracker, run, metric) == as_recorded(record, metric), "every point once"


def test_a_trial_that_another_driver_runs_stays_running(tracker: Tracker, task: Task) -> None:
    storage = tracker.ledger.storage
    run_id = tracker.start(task, payloads.now())
    with Driver(storage, "tiny", threading.Event()) as driver:
        assert Leases(storage, driver.id).take(task.key)
        again(tracker).sync()
        assert tracker.client.get_run(run_id).info.status == "RUNNING"
    again(tracker).sync()
    assert tracker.client.get_run(run_id).info.status == "KILLED"


def test_sending_a_sweep_again_adds_no_point(tracker: Tracker, record: Result) -> None:
    def points() -> int:
        with closing(sqlite3.connect(tracker.store.root / "mlflow.db")) as database:
            return int(database.execute("SELECT count(*) FROM metrics").fetchone()[0])

    tracker.sync()
    before = points()
    assert before > 10
    for _ in range(2):
        again(tracker).sync()
    assert points() == before


def test_a_trial_that_a_scheduler_stopped_has_a_tag(tracker: Tracker, task: Task) -> None:
    rows = [{"epoch": 1.0, "test/clean_acc": 0.1}]
    verdict = {"epoch": 1, "metric": "test/clean_acc", "value": 0.1, "scheduler": "asha", "history": rows}
    watcher = live(tracker, [], every=60)
    watcher.trial_started(task)
    watcher.trial_progress(task, rows)
    tracker.ledger.stop(task.key, verdict)
    watcher.trial_stopped(task, verdict)
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert run.info.status == "KILLED"
    assert run.data.tags["opsctl.stopped"] == "scheduler asha, epoch 1, metric test/clean_acc, value 0.1"
    assert epochs(tracker, run, "test/clean_acc") == [(1, 0.1)]


def test_trials_of_other_sweeps_and_drivers_appear_too(tracker: Tracker, task: Task, record: Result) -> None:
    for _ in range(2):
        watcher = live(tracker, [])
        watcher.trial_done(task, record)
        watcher.sweep_ended()
        assert [run.info.status for run in runs(tracker)] == ["FINISHED"]


def test_a_trial_that_already_has_a_run_gets_no_second_one_while_it_runs(
    tracker: Tracker, task: Task, record: Result
) -> None:
    tracker.sync()
    watcher = live(tracker, [])
    watcher.trial_started(task)
    for row in record["history"]:
        watcher.trial_progress(task, [row])
        time.sleep(0.5)
    assert [run.info.status for run in runs(tracker)] == ["FINISHED"]
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    assert [run.info.status for run in runs(tracker)] == ["FINISHED"]


def test_trials_running_when_the_sweep_ends_are_marked_and_replaced_later(
    tracker: Tracker, task: Task, store: Store
) -> None:
    watcher = live(tracker, [])
    watcher.trial_started(task)
    watcher.sweep_ended()
    assert [run.info.status for run in runs(tracker)] == ["KILLED"]
    assert parent(tracker).info.status == "KILLED"
    run_trial(task.trial, store, device=CPU)
    assert tracker.sync() == 1
    assert [run.info.status for run in runs(tracker)] == ["FINISHED"]


def test_a_deleted_run_is_created_again(tracker: Tracker, task: Task, record: Result) -> None:
    warnings: list[str] = []
    watcher = live(tracker, warnings)
    watcher.trial_started(task)
    wait_until(lambda: runs(tracker))
    tracker.client.delete_run(runs(tracker)[0].info.run_id)
    watcher.trial_progress(task, record["history"][:1])
    wait_until(lambda: runs(tracker))
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")
    assert (watcher.complete, warnings) == (True, [])


class Server:
    """The server of `opsctl ui` on a database, which can be stopped and restarted at the same address."""

    def __init__(self, database: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.uri, self.database = f"http://127.0.0.1:{self.port}", database
        self.start()

    def start(self) -> None:
        self.process: subprocess.Popen[bytes] = mlflow_server.serve(
            f"sqlite:///{self.database}", host="127.0.0.1", port=self.port
        )
        assert mlflow_server.answers(self.process, "127.0.0.1", self.port, threading.Event())

    def stop(self) -> None:
        mlflow_server.end(self.process)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server.db")
    yield server
    server.stop()


def test_an_unreachable_server_gives_one_warning_and_gets_everything_later(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(server.uri, plan_of(tiny(), store), store)
    records = [run_trial(task.trial, store, device=CPU) for task in tracker.plan.tasks]
    warnings: list[str] = []
    watcher = live(tracker, warnings)
    before, during, across, after = tracker.plan.tasks
    for task in (before, across):
        watcher.trial_started(task)
    watcher.trial_progress(across, records[2]["history"][:1])
    watcher.trial_done(before, records[0])
    wait_until(lambda: len(runs(tracker)) == 2)
    server.stop()
    start = time.monotonic()
    watcher.trial_started(during)
    watcher.trial_progress(during, records[1]["history"])
    watcher.trial_done(during, records[1])
    watcher.trial_progress(across, records[2]["history"])
    assert time.monotonic() - start < 0.1, "no call waits"
    wait_until(lambda: warnings)
    held = {key: len(entry.rows) for key, entry in watcher.outbox.entries.items()}
    assert held == {during.key: 0, across.key: 1}, "of a trial that is done only its key is kept"
    server.start()
    wait_until(lambda: len(warnings) > 1)
    watcher.trial_done(across, records[2])
    watcher.trial_started(after)
    watcher.trial_done(after, records[3])
    watcher.sweep_ended()
    assert watcher.complete
    assert ["no longer answers" in warnings[0], "answers again" in warnings[1]] == [True, True]
    assert len(warnings) == 2
    for task, record in zip(tracker.plan.tasks, records, strict=True):
        (run,) = tracker.runs()[task.key]
        assert run.info.status == "FINISHED"
        assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")
    assert parent(tracker).info.status == "FINISHED"


def test_the_end_of_a_sweep_does_not_wait_for_an_unreachable_server(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = Tracker(server.uri, plan_of(tiny(), store), store)
    task, warnings = tracker.plan.tasks[0], list[str]()
    record = run_trial(task.trial, store, device=CPU)
    watcher = live(tracker, warnings, patience=2)
    watcher.trial_started(task)
    server.stop()
    watcher.trial_done(task, record)
    start = time.monotonic()
    watcher.sweep_ended()
    assert time.monotonic() - start < 10
    assert not watcher.complete
    assert len(warnings) == 1
    assert Tracker(f"sqlite:///{server.database}", tracker.plan, store).sync() == 1


def test_a_store_that_is_unreachable_at_the_start_gets_everything_later(store: Store, tmp_path: Path) -> None:
    """A file is in the place of its folder."""
    place = tmp_path / "away"
    place.write_text("in the way")
    tracker = Tracker(f"sqlite:///{place}/mlflow.db", plan_of(tiny(), store), store, attach=False)
    with pytest.raises(TROUBLE):
        tracker.attach()
    first, second, *_ = tracker.plan.tasks
    warnings: list[str] = []
    watcher = live(tracker, warnings)
    watcher.trial_started(first)
    watcher.trial_done(first, run_trial(first.trial, store, device=CPU))
    assert warnings == [], "its creator has warned already"
    place.unlink()
    wait_until(lambda: warnings)
    watcher.trial_started(second)
    watcher.trial_done(second, run_trial(second.trial, store, device=CPU))
    watcher.sweep_ended()
    assert (watcher.complete, warnings) == (True, ["MLflow answers now; it gets what it missed"])
    assert {key: [run.info.status for run in group] for key, group in tracker.runs().items()} == {
        first.key: ["FINISHED"],
        second.key: ["FINISHED"],
    }


def test_a_database_that_disappears_gives_one_warning_without_a_traceback(
    tracker: Tracker, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its disk is unmounted while the sweep runs, and mounted again."""
    first, second, *_ = tracker.plan.tasks
    warnings: list[str] = []
    watcher = live(tracker, warnings)
    database, away = store.root / "mlflow.db", tmp_path / "away.db"
    watcher.trial_started(first)
    wait_until(lambda: tracker.runs())
    database.rename(away)
    database.mkdir()  # or sqlite would begin an empty one
    watcher.trial_done(first, run_trial(first.trial, store, device=CPU))
    wait_until(lambda: warnings)
    watcher.trial_started(second)
    time.sleep(3)
    assert len(warnings) == 1
    database.rmdir()
    away.rename(database)
    watcher.trial_done(second, run_trial(second.trial, store, device=CPU))
    watcher.sweep_ended()
    assert watcher.complete
    assert warnings[1:] == ["MLflow answers again; it gets what it missed"]
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_store_that_never_answers_is_not_waited_for(store: Store, tmp_path: Path) -> None:
    (tmp_path / "away").write_text("in the way")
    uri = f"sqlite:///{tmp_path}/away/mlflow.db"
    watcher = live(Tracker(uri, plan_of(tiny(), store), store, attach=False), [], patience=0.5)
    start = time.monotonic()
    watcher.sweep_ended()
    assert not watcher.complete
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(("failures", "complete"), [(1, True), (2, False)])
def test_a_store_that_was_started_anew_at_the_end_gets_everything(
    failures: int,
    complete: bool,
    tracker: Tracker,
    task: Task,
    record: Result,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The call that fails meets the old server, and the check that follows the new one. If calls go on failing
    while the store answers, it rejects something."""
    calls, plain = list[int](), tracker.sync

    def sync() -> int:
        calls.append(1)
        if len(calls) <= failures:
            raise TROUBLE[0]("connection reset")
        return plain()

    monkeypatch.setattr(tracker, "sync", sync)
    watcher = live(tracker, [])
    watcher.trial_started(task)
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    assert watcher.complete is complete
    assert len(calls) == 2
