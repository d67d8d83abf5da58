"""MLflow shows each finished trial of a sweep once, complete, however often and through whatever deaths it was sent."""

from __future__ import annotations

import pytest
from mlflow.entities import Run

from orchestrator.results import Ledger
from orchestrator.tracking import KEY, LiveTracker, Tracker, default_uri
from orchestrator.trial import run_trial
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def tracker(store: Store) -> Tracker:
    return Tracker(default_uri(store.root), plan_of(tiny(), store), store)


def runs(tracker: Tracker) -> list[Run]:
    return [run for group in tracker.runs().values() for run in group]


def test_everything_is_sent_once(tracker: Tracker, store: Store) -> None:
    for task in tracker.plan.tasks[:3]:
        run_trial(task.trial, store, device=CPU)
    assert [tracker.sync(), tracker.sync()] == [3, 0]
    run = tracker.runs()[tracker.plan.tasks[2].key][0]
    record = Ledger(store.root).result(tracker.plan.tasks[2].key)
    assert record is not None
    assert run.info.status == "FINISHED"
    assert run.data.params["train.architecture.kind"] == "lenet5"
    assert run.data.params["data.poison.0.kind"] == "ops"
    assert run.data.tags["opsctl.data_key"] == record["data_key"]
    assert run.data.tags["opsctl.commit"]
    assert abs(run.info.end_time - run.info.start_time - record["seconds"] * 1000) <= 1, "as long as it took"
    assert run.data.metrics["test/peak_epoch"] == record["metrics"]["test/peak_epoch"]
    history = tracker.client.get_metric_history(run.info.run_id, "test/clean_acc")
    assert [(m.step, m.value) for m in history] == [
        (row["epoch"], row["test/clean_acc"]) for row in record["history"]
    ]
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.digest == record["data_key"]
    assert data.dataset.name.startswith("digits-ops-train")


def test_runs_of_a_dead_driver_are_replaced_and_doubles_removed(tracker: Tracker, store: Store) -> None:
    task = tracker.plan.tasks[0]
    record = run_trial(task.trial, store, device=CPU)
    half = tracker.start(task)
    tracker.log(half, record["history"][:1])  # and here it died
    assert tracker.sync() == 1
    (run,) = runs(tracker)
    assert run.info.run_id != half
    assert run.data.tags[KEY] == task.key
    double = tracker.start(task)
    assert tracker.sync() == 0
    assert [r.info.run_id for r in runs(tracker)] == [run.info.run_id]
    assert double != run.info.run_id


def live(tracker: Tracker, warnings: list[str]) -> LiveTracker:
    watcher = LiveTracker(tracker, warnings.append)
    watcher.sweep_started(tracker.plan)
    return watcher


def test_epochs_arrive_while_a_trial_runs_and_not_twice(tracker: Tracker, store: Store) -> None:
    task, warnings = tracker.plan.tasks[0], list[str]()
    record = run_trial(task.trial, store, device=CPU)
    watcher = live(tracker, warnings)
    watcher.trial_started(task)
    watcher.trial_progress(task, record["history"][:1])
    watcher.trial_progress(task, record["history"][:1])  # a report that came twice
    watcher.trial_done(task, record)
    watcher.sweep_ended()
    (run,) = runs(tracker)
    history = tracker.client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.step for m in history] == [1, 2]
    assert run.info.status == "FINISHED"
    assert tracker.sync() == 0
    assert warnings == []


def test_a_retry_begins_anew_and_a_failure_is_replaced_when_it_is_done_after_all(
    tracker: Tracker, store: Store
) -> None:
    task, warnings = tracker.plan.tasks[0], list[str]()
    watcher = live(tracker, warnings)
    watcher.trial_started(task)
    watcher.trial_started(task)
    watcher.trial_failed(task, "Boom: no")
    watcher.sweep_ended()
    (run,) = runs(tracker)
    assert run.info.status == "FAILED"
    assert run.data.tags["opsctl.error"] == "Boom: no"
    run_trial(task.trial, store, device=CPU)
    assert tracker.sync() == 1
    (run,) = runs(tracker)
    assert run.info.status == "FINISHED"
    assert warnings == []


def test_a_store_that_is_lost_on_the_way_costs_one_warning(tracker: Tracker, store: Store) -> None:
    task, warnings = tracker.plan.tasks[0], list[str]()
    record = run_trial(task.trial, store, device=CPU)
    watcher = live(tracker, warnings)
    tracker.client.delete_experiment(tracker.experiment)
    for _ in range(3):
        watcher.trial_started(task)
        watcher.trial_done(task, record)
    watcher.sweep_ended()
    assert len(warnings) == 1
    assert "MLflow no longer answers" in warnings[0]
    assert Tracker(default_uri(store.root), tracker.plan, store).sync() == 1


def test_a_dead_server_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"no MLflow tracking store answers at http://127\.0\.0\.1:9"):
        Tracker("http://127.0.0.1:9", plan_of(tiny(), store), store)


def test_an_address_that_makes_no_sense_is_told(store: Store) -> None:
    with pytest.raises(InputError, match="no MLflow tracking store answers at nonsense://x"):
        Tracker("nonsense://x", plan_of(tiny(), store), store)


def test_what_still_runs_when_the_sweep_ends_is_marked_and_replaced_later(
    tracker: Tracker, store: Store
) -> None:
    task = tracker.plan.tasks[0]
    watcher = live(tracker, [])
    watcher.trial_started(task)
    watcher.sweep_ended()
    assert [run.info.status for run in runs(tracker)] == ["KILLED"]
    run_trial(task.trial, store, device=CPU)
    assert tracker.sync() == 1
    assert [run.info.status for run in runs(tracker)] == ["FINISHED"]


def test_every_poisoned_data_set_is_there_once_with_its_card_its_picture_and_its_rounds(store: Store) -> None:
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
    told = store.record(next(spec for spec in plan.data if spec.key == noise))
    assert told is not None
    assert [m.value for m in history] == [row["error"] for row in told["facts"]["em"]["rounds"]]
    assert run.data.metrics["change/psnr/mean"] > 20
    assert {file.path for file in tracker.client.list_artifacts(run.info.run_id)} == {
        "card.md",
        "picture.png",
        "record.json",
    }
    assert (store.root / "mlartifacts").is_dir(), "with the store, not where the command was typed"
