"""A plan lists exactly what is missing; a trial runs once and leaves its record."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from orchestrator.execution.faults import fault
from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import make_plan
from orchestrator.planning.spec import RunSpec
from orchestrator.planning.sweep_file import load
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec, Store
from poisons.sources.digits import Digits
from tests.conftest import CPU, ROOT
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny
from trainers import InputError
from trainers.loop import DivergenceError

FOUND = Digits().measure()


def test_a_plan_lists_each_data_set_once_after_its_parents(store: Store) -> None:
    sweep = tiny(grid={"data.poison": ["ops", ["em", "ops"], "em"], "seed": [0, 1, 2]})
    plan = plan_of(sweep, store)
    assert len(plan.tasks) == len(plan.missing) == 9
    names = [spec.name.rpartition("-")[0] for spec in plan.to_build]
    assert names == [
        "digits-clean-test",
        "digits-clean-train",
        "digits-ops-train",
        "digits-em-train",
        "digits-em-ops-train",
    ]
    assert list(store.root.glob("data/*")) == [], "planning builds nothing"


def test_finished_trials_and_built_data_sets_are_left_out(store: Store) -> None:
    plan = plan_of(tiny(), store)
    run_trial(plan.tasks[0].trial, store, device=CPU)
    after = plan_of(tiny(), store)
    assert [task.done for task in after.tasks] == [True, False, False, False]
    assert [spec.poison[0].kind for spec in after.to_build] == ["ops"]
    for task in after.missing:
        run_trial(task.trial, store, device=CPU)
    assert plan_of(tiny(), store).data == ()
    other = plan_of({**tiny(), "name": "other", "grid": {"data.poison": ["ops"], "seed": [0, 5]}}, store)
    assert [task.done for task in other.tasks] == [True, False], "another sweep's results count"


def test_parents_of_built_data_sets_are_not_rebuilt(store: Store) -> None:
    plan = plan_of(tiny(grid={"data.poison": ["ops"], "seed": [0]}), store)
    for spec in plan.data:
        store.ensure(spec)
    import shutil

    shutil.rmtree(store.path(plan.data[1]))
    again = plan_of(tiny(grid={"data.poison": ["ops"], "seed": [0]}), store)
    assert (plan.data[1].poison[0].kind, plan.data[1].split) == ("clean", "train")
    assert again.to_build == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grid": {"data.poison": {"one": "ops", "two": ["ops"]}}},
            r"\(data.poison=one\) and \(data.poison=two\)",
        ),
        (
            {"grid": {"train.schedule": {"a": "one_cycle", "b": {"kind": "one_cycle", "warmup": 0.25}}}},
            "same trial",
        ),
        (
            {"grid": {"data.source": {"a": "digits", "b": {"kind": "digits", "fingerprint": FOUND}}}},
            "same trial",
        ),
        ({"grid": {"seed": [0], "train.epochs": [1, 2]}, "report": {"rows": "seed"}}, None),
        ({"report": {"metric": "test/clean_ac"}}, "no metric 'test/clean_ac'; did you mean 'test/clean_acc'"),
        (
            {"grid": {"data.poison": ["ops"], "train.epochs": [1], "train.batch_size": [8]}}
            | {"report": {"rows": "data.poison", "columns": "train.epochs"}},
            "the axis 'train.batch_size' is named neither as row nor as column",
        ),
    ],
)
def test_equal_points_and_impossible_reports_are_refused_before_the_work(
    store: Store, changes: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert len(plan_of(tiny(**changes), store).tasks) == 2
        return
    with pytest.raises(InputError, match=message):
        plan_of(tiny(**changes), store)


def test_splits_with_different_image_sizes_are_an_error(store: Store, tmp_path: Path) -> None:
    for split, size in (("train", 16), ("test", 20)):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (size, 16)).save(tmp_path / split / "a" / "0.png")
    source = {"kind": "image_folder", "root": str(tmp_path)}
    message = r"training images are \(3, 16, 16\) in 1 classes, test images \(3, 16, 20\)"
    with pytest.raises(InputError, match=message):
        plan_of(tiny(base={"data": {"source": source}}, grid={"seed": [0]}), store)
    data = DataSpec.parse({"source": source}, "test").pinned()
    with pytest.raises(InputError, match=message):
        run_trial(TrialSpec(data=data), store, device=CPU)


def test_the_sweep_of_widths_plans_to_the_right_counts(store: Store) -> None:
    """Rows x columns x 3 seeds; one data set per column, and the clean test images."""
    plan = make_plan(load(ROOT / "sweeps" / "width.yaml"), store, "width")
    assert len(plan.missing) == 6 * 3 * 3
    assert len(plan.to_build) == 4


def test_a_killed_trial_resumes_and_ends_with_the_same_numbers(store: Store, tmp_path: Path) -> None:
    trial = plan_of(tiny(base={"data": {"limit": 60}, "train": {**TRAIN, "epochs": 4}}), store).tasks[0].trial
    whole = run_trial(trial, Store(tmp_path / "other"), device=CPU)
    run = RunSpec(checkpoint_seconds=0, keep="weights")

    def cut(row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, store, device=CPU, report=cut, run=run)
    folder = store.root / "trials" / trial.key
    assert [file.name for file in folder.iterdir()] == ["checkpoint.pt"], "one checkpoint, and no failure"
    record = run_trial(trial, store, device=CPU, run=run)
    assert record["history"] == whole["history"]
    assert record["metrics"] == whole["metrics"]
    (history,) = folder.glob("history-*.json")
    assert {file.name for file in folder.iterdir()} == {history.name, "result.json", "weights.pt"}
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert sum(w.numel() for w in weights.values()) == record["parameters"] == 62_006


def test_a_failure_to_keep_weights_loses_no_result(store: Store) -> None:
    trial = plan_of(tiny(), store).tasks[0].trial
    (store.root / "trials" / trial.key / ".weights.pt.tmp").mkdir(parents=True)
    record = run_trial(trial, store, device=CPU, run=RunSpec(keep="weights"))
    assert "the weights could not be kept" in record["warnings"][-1]
    assert Ledger(store.where).result(trial.key) == record


def test_the_epochs_before_a_divergence_are_kept(store: Store) -> None:
    """The learning rate rises until the loss is NaN; the earlier epochs stay in the ledger."""
    wild = {
        **TRAIN,
        "epochs": 40,
        "optimizer": {"kind": "sgd", "lr": 3e4},
        "schedule": {"kind": "one_cycle", "warmup": 0.99},
    }
    trial = plan_of(tiny(base={"data": {"limit": 60}, "train": wild}), store).tasks[0].trial
    rows: list[dict[str, float]] = []
    with pytest.raises(DivergenceError) as caught:
        run_trial(trial, store, device=CPU, report=rows.append)
    assert fault(caught.value).to_json()["history"] == rows


def test_the_width_sweep_plans_to_the_right_counts(store: Store) -> None:
    plan = make_plan(load(ROOT / "sweeps" / "width.yaml"), store, "width.yaml")
    assert len(plan.missing) == 3 * 6 * 3
    assert len(plan.to_build) == 4  # clean, ops, em; and the clean test images
    assert {task.trial.train.architecture.width for task in plan.tasks} == {1, 2, 4, 8, 16, 20}  # type: ignore[attr-defined]


def test_a_trial_leaves_a_complete_record(store: Store) -> None:
    trial = plan_of(tiny(), store).tasks[3].trial
    rows: list[dict[str, float]] = []
    record = run_trial(trial, store, device=CPU, report=rows.append)
    assert Ledger(store.where).result(trial.key) == record
    assert record["history"] == rows
    assert record["metrics"]["test/clean_acc"] == rows[-1]["test/clean_acc"]
    assert record["metrics"]["test/peak_clean_acc"] == max(row["test/clean_acc"] for row in rows)
    assert TrialSpec.parse(record["spec"], "record") == trial
    assert record["data_key"] == trial.data.key
    assert record["parameters"] == 62_006
    assert record["device"] == "cpu"
    assert record["environment"]["versions"]["torch"]


def test_run_twice_runs_once(store: Store) -> None:
    trial = plan_of(tiny(), store).tasks[0].trial
    rows: list[dict[str, float]] = []
    runners = [
        threading.Thread(target=run_trial, args=(trial, store), kwargs={"device": CPU, "report": rows.append})
        for _ in range(3)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert len(rows) == trial.train.epochs


def test_a_failed_trial_records_its_error_and_may_run_again(store: Store) -> None:
    sweep = tiny(base={"data": {"limit": 60}, "train": {**TRAIN, "optimizer": {"kind": "sgd", "lr": 1e9}}})
    trial, ledger = plan_of(sweep, store).tasks[0].trial, Ledger(store.where)
    for _ in range(2):
        with pytest.raises(DivergenceError) as caught:
            run_trial(trial, store, device=CPU)
        failure = fault(caught.value).to_json()
        assert failure["error"].startswith("DivergenceError: the training loss was not finite in epoch 1")
        assert failure["history"] == []
        assert "in run_trial" in failure["traceback"]
    ledger.fail(trial.key, {**failure, "attempts": 2})
    assert ledger.result(trial.key) is None
    assert (ledger.failure(trial.key) or {})["attempts"] == 2
    ledger.publish(trial.key, {"metrics": {}})
    assert ledger.failure(trial.key) is None


def test_a_result_waits_for_room_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, full = plan_of(tiny(), store).tasks[0].trial, [OSError(28, "No space left on device")] * 3
    publish = Ledger.publish

    def sometimes(ledger: Ledger, key: str, record: dict[str, object]) -> dict[str, object]:
        if full:
            raise full.pop()
        return publish(ledger, key, record)

    monkeypatch.setattr(Ledger, "publish", sometimes)
    monkeypatch.setattr("orchestrator.storage.backoff.pause", lambda faults: 0.0)
    record = run_trial(trial, store, device=CPU)
    assert Ledger(store.where).result(trial.key) == record


def test_a_damaged_result_counts_as_missing(store: Store) -> None:
    plan = plan_of(tiny(), store)
    run_trial(plan.tasks[0].trial, store, device=CPU)
    file: Path = store.root / "trials" / plan.tasks[0].key / "result.json"
    file.write_text(file.read_text()[:100])
    assert not plan_of(tiny(), store).tasks[0].done
    run_trial(plan.tasks[0].trial, store, device=CPU)
    assert plan_of(tiny(), store).tasks[0].done


def test_the_same_trial_has_the_same_numbers_in_another_store(store: Store, tmp_path: Path) -> None:
    trial = plan_of(tiny(), store).tasks[1].trial
    one, other = (run_trial(trial, s, device=CPU)["history"] for s in (store, Store(tmp_path / "other")))
    assert one == other


def test_the_rule_to_leave_out_an_equal_point_does_it(store: Store) -> None:
    """Whatever its label is in YAML."""
    grid = {"data.poison": {"a": "ops", "b, c: [d]": ["ops"]}, "data.ratio": [1.0], "seed": [0, 1]}
    with pytest.raises(InputError, match="two points are the same trial") as error:
        plan_of(tiny(grid=grid), store)
    rule = yaml.safe_load(str(error.value).split("`")[1])
    assert [task.point.labels["data.poison"] for task in plan_of(tiny(grid=grid, **rule), store).tasks] == [
        "a",
        "a",
    ]
