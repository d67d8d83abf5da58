"""Probes are planned before the work, published beside the result, never computed twice, and shown wherever results
are."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.estimates.cost import START_SECONDS, Costs
from orchestrator.execution.faults import fault
from orchestrator.execution.search import Search
from orchestrator.execution.trial import run_trial
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.caveats import remarks
from orchestrator.planning.plan import Task
from orchestrator.planning.probes import PlannedProbe
from orchestrator.planning.snapshot import kept_snapshot
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.garbage import entries
from orchestrator.storage.ledger import Ledger, finding_file
from orchestrator.storage.records import Finding, Result
from orchestrator.storage.stores import open_store
from orchestrator.tracking import Tracker, default_uri
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError, loop
from trainers.probes.shuffle_test import ShuffleTest
from trainers.tensor_files import read_tensors

SHUFFLE = {
    "kind": "shuffle_test",
    "sets": {"ops": {"poison": "ops"}, "shuffled": {"poison": "ops", "shuffled": True}},
}
BOTH = {"probes": ["distance", SHUFFLE]}
KEEP = RunSpec(keep="weights")


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that were trained, by any caller."""
    trained: list[int] = []
    whole = loop.train_epoch

    def counted(*arguments: Any, epoch: int, **rest: Any) -> dict[str, float]:
        trained.append(epoch)
        return whole(*arguments, epoch=epoch, **rest)

    monkeypatch.setattr(loop, "train_epoch", counted)
    return trained


def first(store: Store, **changes: Any) -> Task:
    return plan_of(tiny(**changes), store).tasks[0]


def run(store: Store, task: Task, **options: Any) -> Result:
    return run_trial(task.trial, store, device=CPU, probes=task.probes, **options)


def found(store: Store, task: Task) -> dict[str, Finding]:
    return Ledger(store.where).findings({task.key: task.probe_keys})[task.key]


def files(store: Store, key: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (store.root / "trials" / key).iterdir()}


def breaks(error: type[BaseException], *args: str) -> Callable[..., Any]:
    def broken(*_: Any) -> Any:
        raise error(*args)

    return broken


# -- planned


def test_probes_change_no_trial_key_and_their_data_sets_are_built_while_findings_are_missing(
    store: Store,
) -> None:
    plain, plan = plan_of(tiny(), store), plan_of(tiny(**BOTH), store)
    assert [task.key for task in plan.tasks] == [task.key for task in plain.tasks]
    built = [spec.name for spec in plan.to_build]
    (shuffled,) = set(built) - {spec.name for spec in plain.to_build}
    assert built.index(shuffled) > max(
        built.index(spec.name) for spec in plan.tasks[0].probes[1].sets["ops"].parents
    )
    for task in plan.tasks:
        assert set(task.needs) == {spec.name for spec in (*task.trial.needs, *task.probes[1].sets.values())}
        run(store, task)
    after = plan_of(tiny(**BOTH), store)
    assert [task.done for task in after.tasks] == [True] * 4
    assert after.data == ()
    assert [task.needs for task in after.tasks] == [task.needs for task in plain.tasks]
    assert plan_of(tiny(), store).done == 4, "without probes the trials are done"


def test_the_key_of_a_finding_depends_on_probe_and_images_and_not_on_the_name(store: Store) -> None:
    def keys(*probes: object) -> list[str]:
        return [planned.key for planned in first(store, probes=list(probes)).probes]

    one, other, strict = keys(
        "distance", {"kind": "distance", "name": "far"}, {"kind": "distance", "threshold": 0.5, "name": "x"}
    )
    assert one == other
    assert strict != one
    swapped = {**SHUFFLE, "sets": dict(reversed(SHUFFLE["sets"].items()))}  # type: ignore[attr-defined]
    assert keys(SHUFFLE) == keys(swapped)
    assert keys(SHUFFLE) != keys({**SHUFFLE, "sets": {"ops": {"poison": {"kind": "ops", "pixels": 2}}}})
    planned = first(store, **BOTH).probes[1]
    again = PlannedProbe.from_json(json.loads(json.dumps(planned.to_json())))
    assert (again, again.key) == (planned, planned.key)


def test_a_set_is_the_data_set_of_the_trial_with_some_fields_changed(store: Store) -> None:
    grid = {"data.poison": [{"kind": "ops", "pixels": 2}], "seed": [0]}
    sets = {"clean": {"poison": "clean"}, "more": {"poison.0.pixels": 3}, "other": {"seed": 7}}
    task = first(store, grid=grid, probes=[{"kind": "shuffle_test", "sets": sets}])
    found, own = task.probes[0].sets, task.trial.data
    assert found["clean"] == own.clean
    assert found["more"].poison[0].pixels == 3  # type: ignore[attr-defined]
    assert found["other"] == own.model_copy(update={"seed": 7})
    assert {spec.limit for spec in found.values()} == {60}


def test_a_probe_that_needs_clean_images_gets_those_of_the_trial(store: Store) -> None:
    task = plan_of(
        tiny(probes=["linear_separability"], report={"metric": "linear_separability/acc"}), store
    ).tasks[2]
    assert task.probes[0].sets == {"clean": task.trial.data.clean}
    assert task.trial.data.poison[0].kind == "ops"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes": ["distanc"]}, "unknown probe 'distanc'; did you mean 'distance'"),
        ({"probes": ["distance", "distance"]}, "test: probes.1: another probe is named 'distance' already"),
        ({"probes": ["shuffle_test"]}, "test: probes.0: the probe 'shuffle_test' compares sets of images"),
        (
            {"probes": ["distance", {**SHUFFLE, "sets": {"em": {"poison": "emm"}}}]},
            "test: probes.1.sets.em: poison.0: unknown poison 'emm'; did you mean 'em'",
        ),
        (
            {"probes": [{**SHUFFLE, "sets": {"em": {"poisson": "em"}}}]},
            r"test: probes.0.sets.em: unknown field: 'poisson'; did you mean 'poison'",
        ),
        (
            {"probes": [{**SHUFFLE, "sets": {"em": {"poison.kindd.eps": 1}}}]},
            "test: probes.0.sets.em: poison.kindd.eps: there is nothing to set at 'kindd'",
        ),
        (
            {**BOTH, "report": {"metric": "distance/relativ"}},
            "report.metric: no metric 'distance/relativ'; did you mean 'distance/relative'",
        ),
        (
            {**BOTH, "report": {"metric": "far/relative"}},
            "report.metric: no metric 'far/relative'; did you mean 'distance/relative'",
        ),
        (
            {**BOTH, "report": {"metrics": {"a": "shuffle_test/ops_acc", "b": "shuffle_test/em_acc"}}},
            "report.metrics: no metric 'shuffle_test/em_acc'",
        ),
    ],
)
def test_an_impossible_probe_is_an_error_before_the_work(
    store: Store, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(tiny(**changes), store)


def test_images_that_do_not_fit_are_refused_before_the_work(store: Store, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (16, 20)).save(tmp_path / split / "a" / "0.png")
    sets = {"other": {"source": {"kind": "image_folder", "root": str(tmp_path)}, "limit": None}}
    with pytest.raises(
        InputError, match=r"probes.0.sets.other: these images are \(3, 20, 16\) in 1 classes, those of the"
    ):
        plan_of(tiny(probes=[{"kind": "shuffle_test", "sets": sets}]), store)


# -- run


def test_a_probe_changes_nothing_and_its_finding_is_published_beside_the_result(
    store: Store, tmp_path: Path
) -> None:
    quiet = run(Store(tmp_path / "other"), first(Store(tmp_path / "other")))
    task = first(store, **BOTH)
    record = run(store, task)
    assert record["history"] == quiet["history"]
    probed = found(store, task)
    assert record["metrics"] == quiet["metrics"] | {
        f"{name}/{metric}": value for name, one in probed.items() for metric, value in one["metrics"].items()
    }
    assert set(record["metrics"]) >= {
        "distance/relative",
        "shuffle_test/ops_acc",
        "shuffle_test/shuffled_acc",
    }
    findings = [f"look-{key}.json" for key in task.probe_keys.values()]
    long = [name for name in files(store, task.key) if name.startswith(("history-", "curves-"))]
    assert len(long) == 3
    assert set(files(store, task.key)) == {"result.json", *findings, *long}
    distance, shuffle = probed["distance"], probed["shuffle_test"]
    assert distance["key"] == task.probe_keys["distance"]
    assert len(distance["curves"]["relative"]) == task.trial.train.epochs
    assert shuffle["sets"] == {name: spec.name for name, spec in task.probes[1].sets.items()}
    result = Ledger(store.where).result(task.key)
    assert result is not None
    assert result["metrics"] == quiet["metrics"], (
        "what is found later, by other sweeps, is no part of the result"
    )


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_probe_added_later_runs_on_kept_weights_without_training(
    tmp_path: Path, where: str, epochs: list[int]
) -> None:
    store = open_store(tmp_path / "store" if where == "folder" else f"memory://{secrets.token_hex(8)}/store")
    run(store, first(store), run=KEEP)
    before = Ledger(store.where).storage.read(f"trials/{first(store).key}/result.json")
    task, trained = first(store, probes=[SHUFFLE]), len(epochs)
    assert (task.done, task.trained, task.trains) == (False, True, False)
    record = run(store, task)
    assert len(epochs) == trained
    assert Ledger(store.where).storage.read(f"trials/{task.key}/result.json") == before
    assert found(store, task)["shuffle_test"]["of"] == "kept weights"
    assert first(store, probes=[SHUFFLE]).done
    witness = Store(tmp_path / "witness")
    assert record["metrics"] == run(witness, first(witness, probes=[SHUFFLE]))["metrics"]


@pytest.mark.parametrize("kept", ["nothing", "damaged weights", "weights"])
def test_a_trial_is_trained_again_if_weights_are_not_enough_and_its_result_stays(
    store: Store, tmp_path: Path, epochs: list[int], kept: str
) -> None:
    run(store, first(store), run=RunSpec() if kept == "nothing" else KEEP)
    before = files(store, first(store).key)
    if kept == "damaged weights":
        (store.root / "trials" / first(store).key / "weights.pt").write_bytes(b"torn")
    probes = ["distance", SHUFFLE] if kept == "weights" else [SHUFFLE]
    task = first(store, probes=probes)
    assert task.trains == (kept != "damaged weights"), "a plan does not read weights"
    epochs.clear()
    record = run(store, task)
    assert epochs == [1, 2]
    after = files(store, task.key)
    assert after["result.json"] == before["result.json"]
    assert "checkpoint.pt" not in after
    witness = Store(tmp_path / "witness")
    assert record["metrics"] == run(witness, first(witness, probes=probes))["metrics"]
    assert {one["of"] for one in found(store, task).values()} == {"another training"}
    epochs.clear()
    run(store, task)
    assert epochs == [], "run twice runs once"


def weights_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def write(file: Path) -> None:
        weights = dict(torch.load(file, weights_only=True))
        change(weights)
        torch.save(weights, file)

    return write


def in_its_place(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def write(file: Path) -> None:
        file.unlink()
        make(file)

    return write


@pytest.mark.parametrize(
    "damage",
    [
        weights_with(lambda w: w.pop(min(w))),
        weights_with(lambda w: w.update(more=torch.ones(1))),
        weights_with(lambda w: w.update({min(w): torch.ones(1)})),
        weights_with(lambda w: w.update({min(w): "0.5"})),
        weights_with(lambda w: w[min(w)].fill_(float("nan"))),
        lambda file: torch.save([1.0], file),
        in_its_place(os.mkfifo),
        in_its_place(lambda file: file.symlink_to("/dev/zero")),
    ],
    ids=["missing", "more", "shape", "text", "nan", "list", "pipe", "link"],
)
def test_kept_weights_that_do_not_fit_the_network_count_as_not_kept(
    store: Store, epochs: list[int], damage: Callable[[Path], Any]
) -> None:
    run(store, first(store), run=KEEP)
    file = store.root / "trials" / first(store).key / "weights.pt"
    damage(file)
    task = first(store, probes=[SHUFFLE])
    epochs.clear()
    run(store, task, run=KEEP)
    assert epochs == [1, 2], "it was trained again"
    finding = found(store, task)["shuffle_test"]
    (warning,) = finding["warnings"]
    assert re.search(r"the kept weights were damaged \(.+\); the trial was trained again", warning)
    assert finding["of"] == "another training"
    (aside,) = (store.root / "quarantine").iterdir()
    assert aside.name.startswith(f"trials-{task.key}-weights.pt-")
    assert read_tensors(file), "weights are kept again"


@pytest.mark.parametrize("end", [0, 10, 700, -2, -3])
def test_a_damaged_finding_is_missing_and_computed_again(store: Store, end: int) -> None:
    task = first(store, **BOTH)
    run(store, task, run=KEEP)
    whole = found(store, task)["distance"]
    file = store.root / "trials" / task.key / f"look-{task.probe_keys['distance']}.json"
    file.write_bytes(file.read_bytes()[:end])
    again = first(store, **BOTH)
    assert [lacking.name for lacking in again.missing_probes] == ["distance"]
    assert again.trains, "its probe watches the training"
    run(store, again)
    assert found(store, task)["distance"]["curves"] == whole["curves"]


def test_a_failed_probe_loses_neither_the_result_nor_another_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch, epochs: list[int]
) -> None:
    task = first(store, probes=[SHUFFLE, "distance"])
    with monkeypatch.context() as broken:
        broken.setattr(ShuffleTest, "run", breaks(ZeroDivisionError, "no images"))
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="no images") as caught:
                run(store, task)
    assert epochs == [1, 2], "the second attempt resumed from the end of the first"
    failure = fault(caught.value)
    assert failure.kind == "trial"
    assert (
        failure.error
        == "ZeroDivisionError: no images (in the probe 'shuffle_test'; the result of the training is kept)"
    )
    result = Ledger(store.where).result(task.key)
    assert result is not None
    assert result["warnings"] == ["the probe 'shuffle_test' failed: no images"]
    assert set(found(store, task)) == {"distance"}
    Ledger(store.where).fail(task.key, failure.to_json())
    plan = plan_of(tiny(probes=[SHUFFLE, "distance"]), store)
    assert [one.key for one in plan.failed] == [task.key]
    assert (
        read_status(plan.snapshot, Ledger(store.where)).counts
        == "1 of 4 trials done, 1 lacks shuffle_test, 1 failed in a probe, 0 failed, 3 missing"
    )
    assert plan_of(tiny(), store).done == 1, "without probes it is done"
    run(store, task)
    assert epochs == [1, 2]
    assert Ledger(store.where).failure(task.key) is None
    assert "checkpoint.pt" not in files(store, task.key)


def test_a_probe_with_impossible_settings_is_a_config_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = first(store, probes=[SHUFFLE])
    monkeypatch.setattr(ShuffleTest, "run", breaks(InputError, "sets.em: too few images"))
    with pytest.raises(InputError) as caught:
        run(store, task)
    assert fault(caught.value).kind == "config"
    assert Ledger(store.where).result(task.key) is not None


def test_a_kill_during_a_probe_does_not_repeat_the_training(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: list[int]
) -> None:
    task = first(store, probes=["distance", SHUFFLE])
    with monkeypatch.context() as broken:
        broken.setattr(ShuffleTest, "run", breaks(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(store, task)
    curves, *others = sorted(files(store, task.key), key=lambda name: not name.startswith("curves-"))
    assert curves.startswith(f"curves-{task.probe_keys['distance']}-")
    assert set(others) == {"checkpoint.pt", f"look-{task.probe_keys['distance']}.json"}
    epochs.clear()
    record = run(store, task)
    assert epochs == []
    witness = Store(tmp_path / "witness")
    whole = run(witness, first(witness, probes=["distance", SHUFFLE]))
    assert (record["metrics"], record["history"]) == (whole["metrics"], whole["history"])


# -- reported


def test_a_sweep_status_includes_the_metrics_of_findings(store: Store) -> None:
    plan, ledger = plan_of(tiny(**BOTH), store), Ledger(store.where)
    plan.snapshot.keep(ledger.storage, "v")
    assert kept_snapshot(ledger.storage, "v") == plan.snapshot
    done, bare = plan.tasks[:2]
    record = run(store, done)
    run_trial(bare.trial, store, device=CPU)
    status = read_status(plan.snapshot, ledger)
    assert status.counts == (
        "2 of 4 trials done, 1 lacks distance, 1 lacks shuffle_test, 0 failed, 2 missing"
    )
    assert status.results.keys() == {done.key, bare.key}
    assert status.results[done.key]["metrics"] == record["metrics"]
    assert dict(status.findings[done.key]) == found(store, done)
    assert bare.key not in status.findings
    (store.root / "trials" / done.key / f"look-{done.probe_keys['distance']}.json").unlink()
    seen = read_status(plan.snapshot, ledger, status)
    assert seen.results == status.results, "known results are not read again"
    assert seen.findings[done.key]["distance"]["curves"], "nor are known findings"
    assert read_status(plan.snapshot, ledger).counts.startswith(
        "2 of 4 trials done, 2 lack distance, 1 lacks "
    )
    run(store, bare)
    assert read_status(plan.snapshot, ledger, seen).counts == "2 of 4 trials done, 0 failed, 2 missing"


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_the_summary_of_a_finding_omits_its_curves(store: Store, where: str) -> None:
    ledger = Ledger(store.where if where == "folder" else f"memory://{secrets.token_hex(8)}/x")
    record: Finding = {
        "metrics": {"a": 1.0},
        "seconds": 2.0,
        "fields": {"x": [[1, 2]]},
        "curves": {"c": [0.5] * 5000},
    }
    ledger.publish_finding("t", "k", record)
    wanted = {"t": {"one": "k", "other": "k", "none": "l"}}
    short = {"key": "k", "metrics": {"a": 1.0}, "seconds": 2.0}
    assert ledger.finding_summaries(wanted) == {"t": {"one": short, "other": short}}
    assert ledger.findings(wanted)["t"]["other"] == {"key": "k", **record}
    (curves,) = (name for name in ledger.storage.names("trials/t") if name.startswith("curves-k-"))
    assert len(ledger.storage.read(finding_file("t", "k")) or b"") < 1000
    ledger.storage.remove(f"trials/t/{curves}")
    assert ledger.finding_summaries(wanted) == {"t": {}}
    assert ledger.damaged == {finding_file("t", "k"): f"its {curves} is missing"}


def test_a_plan_shows_trials_that_only_lack_findings(store: Store) -> None:
    plan = plan_of(tiny(), store)
    for task, kept in zip(plan.tasks, (KEEP, KEEP, RunSpec()), strict=False):
        run_trial(task.trial, store, device=CPU, run=kept)
    after = plan_of(tiny(probes=[SHUFFLE]), store)
    assert len(remarks(after)) == 3
    costs = Costs.usual(store)
    light, _, heavy, full = (costs.task_seconds(task) for task in after.tasks)
    assert light < heavy
    assert heavy == pytest.approx(full)
    tuned = [{"kind": "fine_tune", "epochs": 6, "sets": {"a": {}, "b": {"poison": "ops"}}}]
    (long, *_) = plan_of(tiny(probes=tuned), store).tasks
    training = costs.trial_seconds(long.trial) - START_SECONDS  # of 2 epochs, and its evaluation
    assert costs.task_seconds(long) == pytest.approx(START_SECONDS + 12 / 2 * training, rel=0.2)
    assert len(remarks(plan_of(tiny(probes=["distance"]), store))) == 2
    assert remarks(plan_of(tiny(), store)) == []


def test_data_sets_of_probes_count_as_needed(store: Store) -> None:
    task = first(store, probes=[SHUFFLE])
    run(store, task)
    needed = {entry.name: entry.needed_by for entry in entries(store)}
    assert all(needed.values())
    shuffled = task.probes[0].sets["shuffled"]
    assert needed[shuffled.name] == ("1 trial",)
    (store.root / "trials" / task.key / f"look-{task.probe_keys['shuffle_test']}.json").unlink()
    assert [entry.name for entry in entries(store) if not entry.needed_by] >= [shuffled.name]


def test_a_search_can_optimise_the_metric_of_a_probe(store: Store) -> None:
    changes = {
        **BOTH,
        "run": {"search": "optuna", "num_samples": 2},
        "report": {"metric": "distance/relative"},
    }
    plan = plan_of(tiny(**changes), store)
    records = {task.key: run(store, task) for task in plan.tasks[:2]}
    after = plan_of(tiny(**changes), store)
    cells = Search.of(after, Ledger(store.where)).cells.values()  # type: ignore[attr-defined]
    assert [cell.values for cell in cells] == [
        {key: record["metrics"]["distance/relative"] for key, record in records.items()},
        {},
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_findings_are_sent_to_mlflow_once_even_if_they_come_later(store: Store) -> None:
    def tracker(**changes: Any) -> Tracker:
        return Tracker(default_uri(store.root), plan_of(tiny(**changes), store), store)

    def metrics_of(tracker: Tracker) -> dict[str, Sequence[tuple[int, float]]]:
        (run,) = tracker.runs()[tasks[0].key]
        history = {
            name: tracker.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics
        }
        return {
            name: sorted((point.step, point.value) for point in points) for name, points in history.items()
        }

    tasks = plan_of(tiny(**BOTH), store).tasks
    run_trial(tasks[0].trial, store, device=CPU, run=KEEP)
    assert tracker().sync() == 1
    bare = metrics_of(tracker())
    probing = tracker(**BOTH)
    assert probing.sync() == 0, "without its findings a trial is not done"
    assert metrics_of(probing) == bare
    for task in tasks[:2]:
        run(store, task)
    assert probing.sync() == 1, "the other already has a run"
    one = found(store, tasks[0])
    curves = {
        f"distance/{name}": list(enumerate(values, 1)) for name, values in one["distance"]["curves"].items()
    }
    numbers = {f"shuffle_test/{name}": [(2, value)] for name, value in one["shuffle_test"]["metrics"].items()}
    assert metrics_of(probing) == bare | curves | numbers
    (late,), (early,) = (probing.runs()[task.key] for task in tasks[:2])
    assert late.data.metrics.keys() == early.data.metrics.keys()
    assert probing.sync() == tracker(**BOTH).sync() == 0
    assert metrics_of(probing) == bare | curves | numbers
