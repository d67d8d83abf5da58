"""MLflow shows each finished trial of a sweep once and complete, however often it is sent and drivers are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Task
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.storage import FolderStorage
from orchestrator.tracking import KEY, Tracker, default_uri, page, payloads
from orchestrator.tracking.sweep_run import ROLE
from poisons import Store
from tests.conftest import CPU, ROOT
from tests.orchestrator.driving import heartbeat
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError
from trainers.provenance import environment

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def tracker(store: Store) -> Tracker:
    return Tracker(default_uri(store.root), plan_of(tiny(), store), store)


def runs(tracker: Tracker) -> list[Run]:
    return [run for group in tracker.runs().values() for run in group]


def parent(tracker: Tracker) -> Run:
    (run,) = tracker.connection.runs(tracker.experiment, f"tags.`{ROLE}` = 'sweep'")
    return run


def epochs(tracker: Tracker, run: Run, metric: str) -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def as_recorded(record: Result, metric: str) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), row[metric]) for row in record["history"]]


def test_everything_is_sent_once(tracker: Tracker, store: Store) -> None:
    for task in tracker.plan.tasks[:3]:
        run_trial(task.trial, store, device=CPU)
    assert [tracker.sync(), tracker.sync()] == [3, 0]
    run = tracker.runs()[tracker.plan.tasks[2].key][0]
    record = Ledger(store.where).result(tracker.plan.tasks[2].key)
    assert record is not None
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ops s0"
    assert run.data.params["train.architecture.kind"] == "lenet5"
    assert run.data.params["data.poison.0.kind"] == "ops"
    assert run.data.tags["opsctl.data_key"] == record["data_key"]
    assert run.data.tags["opsctl.commit"]
    assert abs(run.info.end_time - run.info.start_time - record["seconds"] * 1000) <= 1, "as long as it took"
    assert run.data.metrics["test/peak_epoch"] == record["metrics"]["test/peak_epoch"]
    assert epochs(tracker, run, "test/clean_acc") == as_recorded(record, "test/clean_acc")
    times = [point.timestamp for point in tracker.client.get_metric_history(run.info.run_id, "train/loss")]
    assert run.info.start_time < min(times) < max(times) == run.info.end_time
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == record["data_key"]
    assert data.dataset.name.startswith("digits-ops-train")


def test_the_sweep_has_a_parent_run_of_its_trials(tracker: Tracker, store: Store) -> None:
    tasks = tracker.plan.tasks
    for task in tasks[:2]:
        run_trial(task.trial, store, device=CPU)
    Ledger(store.where).fail(tasks[2].key, {"error": "Boom", "traceback": None})
    tracker.sync()
    top = parent(tracker)
    assert (top.info.run_name, top.info.status) == ("tiny", "KILLED")
    assert {"sweep/trials": 4, "sweep/done": 2, "sweep/failed": 1}.items() <= top.data.metrics.items()
    assert top.data.tags["opsctl.question"] == "Does it run?"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(tracker)} == {top.info.run_id}
    assert tracker.runs()[tasks[2].key][0].info.status == "FAILED", (
        "its driver may have died before it sent that"
    )
    for task in tasks[2:]:
        run_trial(task.trial, store, device=CPU)
    again = Tracker(default_uri(store.root), tracker.plan, store)
    again.sync()
    assert parent(again).info.status == "FINISHED"
    assert [run.info.status for run in runs(again)] == ["FINISHED"] * 4


def invented(task: Task) -> Result:
    """A made-up record of a trial."""
    row = {"epoch": 1.0, "test/clean_acc": 0.5}
    fields = {"seconds": 1.0, "device": "cpu", "environment": environment(), "data_key": task.trial.data.key}
    return {"metrics": {"test/clean_acc": 0.5}, "history": [row], **fields}


STOP = {"epoch": 1, "metric": "test/clean_acc", "value": 0.1, "scheduler": "asha", "environment": {}}


def status_of(store: Store, sweep: dict[str, Any]) -> str:
    """The status of a sweep's run after a sync."""
    tracker = Tracker(default_uri(store.root), plan_of(sweep, store), store)
    tracker.sync()
    return str(parent(tracker).info.status)


def test_a_sweep_is_finished_if_its_scheduler_stopped_or_its_search_skipped_the_rest(
    store: Store,
) -> None:
    sweep, ledger = tiny(run={"scheduler": "asha"}), Ledger(store.where)
    first, *others = plan_of(sweep, store).tasks
    for task in others[1:]:
        ledger.publish(task.key, invented(task))
    ledger.stop(first.key, STOP)
    assert status_of(store, sweep) == "KILLED", "one is left"
    ledger.fail(others[0].key, {"error": "Boom", "traceback": None})
    assert status_of(store, sweep) == "FAILED"
    ledger.publish(others[0].key, invented(others[0]))
    assert status_of(store, sweep) == "FINISHED"
    assert status_of(store, tiny(name="whole")) == "KILLED", "without a scheduler the first is wanted too"

    grid = {"train.epochs": [3, 4, 5, 6], "seed": [0, 1]}
    sweep = tiny(name="search", grid=grid, run={"search": "optuna", "num_samples": 2})
    tasks = plan_of(sweep, store).tasks
    for task in tasks[:3]:
        ledger.publish(task.key, invented(task))
    assert status_of(store, sweep) == "KILLED"
    ledger.publish(tasks[3].key, invented(tasks[3]))
    assert status_of(store, sweep) == "FINISHED", "2 cells of 4, each with both seeds"


class Counting(FolderStorage):
    """A storage that records the names that are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    def read(self, name: str) -> bytes | None:
        self.asked.append(name)
        return super().read(name)


def test_trials_that_mlflow_already_has_are_not_read(store: Store) -> None:
    """Reading from an object store takes tens of milliseconds, and a sweep may have thousands of trials."""
    ledger, plan = Ledger(store.where), plan_of(tiny(run={"scheduler": "asha"}), store)
    for task in plan.tasks[:2]:
        ledger.stop(task.key, STOP)
    ledger.fail(plan.tasks[2].key, {"error": "Boom", "traceback": None})
    tracker = Tracker(default_uri(store.root), plan, store)
    tracker.ledger.storage = storage = Counting(store.root)
    tracker.sync()
    kinds = ["failure.json", "stopped.json", "stopped.json"]
    assert sorted(name.rpartition("/")[2] for name in storage.asked) == kinds
    tracker.sync()
    assert len(storage.asked) == 3
    assert sorted(run.info.status for run in runs(tracker)) == ["FAILED", "KILLED", "KILLED"]


def test_every_successful_call_updates_the_time_of_the_last_answer(tracker: Tracker) -> None:
    task = tracker.plan.tasks[0]
    run_id = tracker.start(task, payloads.now())

    def answered(call: Callable[[], object]) -> bool:
        before = tracker.connection.answered
        call()
        return tracker.connection.answered > before

    assert answered(lambda: tracker.client.set_tag(run_id, "a", "b"))
    assert answered(lambda: tracker.discard(tracker.copies()[task.key]))
    assert answered(tracker.attach)
    with pytest.raises(MlflowException):
        tracker.client.get_run("none")


def test_the_description_of_the_experiment_has_filters_that_work(tracker: Tracker, store: Store) -> None:
    for task in tracker.plan.tasks:
        run_trial(task.trial, store, device=CPU)
    tracker.sync()
    note = tracker.client.get_experiment(tracker.experiment).tags["mlflow.note.content"]
    first, second = page.examples(tracker.plan)
    assert "Does it run?" in note
    assert first in note
    assert second in note
    view = json.loads(tracker.client.get_experiment(tracker.experiment).tags[page.VIEW])
    state = json.loads(view["state"])
    best = tracker.client.search_runs([tracker.experiment], order_by=[f"{state['orderByKey']} DESC"])[0]
    shown = {f"metrics.`{name}`" for name in best.data.metrics} | {
        f"tags.`{name}`" for name in best.data.tags
    }
    assert set(state["selectedColumns"]) <= shown, "the view shows what runs have"
    names = {run.info.run_name for run in tracker.client.search_runs([tracker.experiment], first)}
    assert names == {"clean s0", "clean s1"}
    good = [
        task.key
        for task in tracker.plan.tasks
        if (tracker.ledger.result(task.key) or {})["metrics"]["test/clean_acc"] > 0.5
    ]
    found = tracker.client.search_runs([tracker.experiment], second)
    assert sorted(run.data.tags[KEY] for run in found) == sorted(good)


def test_run_names_are_short_and_distinct(store: Store) -> None:
    label = "a source with a very long name that nobody wants to read in a table, number "
    grid = {"data.poison": {f"{label}{i}": {"kind": "ops", "pixels": i} for i in (1, 2)}, "seed": [0, 1]}
    names = [payloads.name(task) for task in plan_of(tiny(grid=grid), store).tasks]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= payloads.LONGEST_NAME


def test_the_run_of_a_dead_driver_is_completed_and_duplicates_are_removed(
    tracker: Tracker, store: Store
) -> None:
    task = tracker.plan.tasks[0]
    record = run_trial(task.trial, store, device=CPU)
    half = tracker.start(
        task, payloads.now(), rows=[(payloads.now(), record["history"][0])]
    )  # and here it died
    assert tracker.sync() == 1
    (run,) = runs(tracker)
    assert (run.info.run_id, run.info.status, run.data.tags[KEY]) == (half, "FINISHED", task.key)
    assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")
    tracker.start(task, payloads.now())
    tracker.complete(task, record)  # another driver, at the same time
    kept = min(r.info.run_id for r in runs(tracker) if r.info.status == "FINISHED")
    assert tracker.sync() == 0
    assert [r.info.run_id for r in runs(tracker)] == [kept], "on which all drivers agree"


def test_a_run_that_another_driver_may_be_writing_to_is_not_touched(tracker: Tracker, store: Store) -> None:
    """Both would send the last epochs with different times, so that they would appear twice."""
    task = tracker.plan.tasks[0]
    record = run_trial(task.trial, store, device=CPU)
    theirs = tracker.start(task, payloads.now(), rows=[(payloads.now(), record["history"][0])])
    tracker.ledger.storage.write("drivers/other.json", heartbeat("other"))
    tracker.sync()
    (run,) = runs(tracker)
    assert run.info.run_id != theirs
    assert run.info.status == "FINISHED"
    assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")


def test_drivers_that_send_the_same_sweep_at_once_leave_one_run_per_trial(store: Store) -> None:
    plan = plan_of(tiny(grid={"data.poison": ["clean", "ops"], "seed": [0, 1, 2]}), store)
    for task in plan.tasks:
        run_trial(task.trial, store, device=CPU)
    trackers = [Tracker(default_uri(store.root), plan, store) for _ in range(3)]
    threads = [threading.Thread(target=tracker.sync) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = trackers[0].runs()
    assert {key: [run.info.status for run in group] for key, group in found.items()} == {
        task.key: ["FINISHED"] for task in plan.tasks
    }
    top = parent(trackers[0])
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(trackers[0])} == {top.info.run_id}
    for task in plan.tasks:
        (run,) = found[task.key]
        record = Ledger(store.where).result(task.key)
        assert record is not None
        assert epochs(trackers[0], run, "train/loss") == as_recorded(record, "train/loss")


def test_a_store_opened_by_several_processes_at_once_is_created_once(store: Store) -> None:
    """MLflow's own migrations take no lock: without ours, most of the processes fail."""
    code = (
        "import sys; from orchestrator.tracking.connection import Connection; from pathlib import Path; "
        "sys.stdin.read(); store = Connection(sys.argv[1], Path('x')); store.open(); "
        "print(store.experiment(sys.argv[2], {}))"
    )
    uri = default_uri(store.root)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", code, uri, f"sweep-{i % 2}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for i in range(4)
    ]
    time.sleep(10)  # until all of them wait at the start
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.close()
        opener.stdin = None
    ended = [(*opener.communicate(timeout=120), opener.returncode) for opener in openers]
    assert [code for _, _, code in ended] == [0] * 4, [error for _, error, _ in ended]
    ids = [out.strip() for out, _, _ in ended]
    assert ids[0] == ids[2] != ids[1] == ids[3]


def test_an_unreachable_server_gives_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"no MLflow tracking store answers at http://127\.0\.0\.1:9"):
        Tracker("http://127.0.0.1:9", plan_of(tiny(), store), store)


def test_an_invalid_address_gives_an_error(store: Store) -> None:
    with pytest.raises(InputError, match="no MLflow tracking store answers at nonsense://x"):
        Tracker("nonsense://x", plan_of(tiny(), store), store)


def test_the_error_for_a_missing_driver_names_the_package(store: Store) -> None:
    code = (
        "import sys; sys.modules['psycopg2'] = None\n"
        "from pathlib import Path; from orchestrator.tracking.connection import Connection\n"
        "from trainers import InputError\n"
        "try: Connection('postgresql://me:secret@127.0.0.1/x', Path('x')).open()\n"
        "except InputError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ}
    )
    assert "the driver for postgresql://me:***@127.0.0.1/x is not installed" in run.stdout, run.stderr
    assert "pip install psycopg2-binary" in run.stdout


def test_an_unreachable_database_quickly_gives_an_error_without_its_password(store: Store) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match="no MLflow tracking store answers") as raised:
        Tracker("postgresql://me:secret@127.0.0.1:9/x", plan_of(tiny(), store), store)
    assert "secret" not in str(raised.value)
    assert time.monotonic() - start < 20


def test_every_poisoned_data_set_appears_once_with_card_picture_and_rounds(store: Store) -> None:
    em = {"kind": "em", "generator": "lenet5", "steps": 1, "train_steps": 1, "max_rounds": 2, "stop_error": 0}
    plan = plan_of(tiny(grid={"data.poison": ["clean", "ops", [em, "ops"]], "seed": [0]}), store)
    for spec in plan.data:
        store.ensure(spec)
    tracker = Tracker(default_uri(store.root), plan, store)
    for _ in range(2):
        tracker.sync()
    names = {spec.key: spec.name for spec in plan.data if spec.crafted}
    found = tracker.runs(tracker.data_sets)
    assert {key: [run.info.run_name for run in group] for key, group in found.items()} == {
        key: [name] for key, name in names.items()
    }
    (noise,) = [key for key, name in names.items() if name.startswith("digits-em-train")]
    run = found[noise][0]
    history = tracker.client.get_metric_history(run.info.run_id, "em/error")
    record = store.record(next(spec for spec in plan.data if spec.key == noise))
    assert record is not None
    assert [m.value for m in history] == [row["error"] for row in record["facts"]["em"]["rounds"]]
    assert run.data.metrics["change/psnr/mean"] > 20
    assert run.data.tags["platform.name"] == record["platform"]["name"]
    assert run.data.tags["platform.device"] == "cpu"
    kept = store.root / "mlartifacts" / run.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    assert {file.name for file in kept.iterdir()} == {"card.md", "picture.png", "record.json"}
