"""Adding a probe to a finished sweep hides no result and, where weights were kept, trains nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.estimates.kept_weights import KeptWeights, WeightSizes, choose_kept_weights, together
from orchestrator.execution.trial import run_trial
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.caveats import lacking_probes
from orchestrator.planning.spec import RunSpec
from orchestrator.report import Sheet, make_sheet
from orchestrator.report.html import write_page
from orchestrator.report.html.document import document_of
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import CPU, Opsctl
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny, write
from trainers import InputError, meta
from trainers.architectures.library import LibraryModel
from trainers.checkpoint import write_tensors

SHUFFLE = {"kind": "shuffle_test", "sets": {"ops": {"poison": "ops"}}}
SURFACE = {"kind": "loss_surface", "points": 3, "limit": 20}


def finished(store: Store, *, keep: bool = True, **changes: Any) -> dict[str, Any]:
    """Finish the trials of a sweep that has no probes yet."""
    sweep = tiny(**changes)
    for task in plan_of(sweep, store).tasks:
        run_trial(task.trial, store, device=CPU, run=RunSpec(keep="weights" if keep else "none"))
    return sweep


def sheet_of(sweep: dict[str, Any], store: Store) -> Sheet:
    return make_sheet(read_status(plan_of(sweep, store).snapshot, Ledger(store.where)), Path("tiny.yaml"))


def choice(store: Store, **changes: Any) -> KeptWeights:
    return choose_kept_weights(plan_of(tiny(**changes), store), store)


# -- what is there is shown


def test_adding_a_probe_hides_no_result(store: Store) -> None:
    sweep = finished(store)
    before = sheet_of(sweep, store)
    after = sheet_of(sweep | {"probes": ["distance", SURFACE]}, store)
    assert (
        after.status.counts == "4 of 4 trials done, 4 lack distance, 4 lack loss_surface, 0 failed, 0 missing"
    )
    assert after.status.left == 4
    assert after.table == before.table
    distance, surface = after.probes
    assert distance.columns == ("test/clean_acc", "distance", "relative")
    assert distance.rows == ("clean", "ops")
    for row in distance.rows:
        main = report.text(before.table, row, before.table.columns[0])
        texts = [report.text(distance, row, column) for column in distance.columns]
        assert texts == [main, "lacks distance", "lacks distance"]
    assert surface.columns == ("test/clean_acc", "centre_loss", "centre_acc", "sharpness")


def test_a_cell_says_how_many_of_its_trials_lack_a_probe(store: Store) -> None:
    sweep = finished(store) | {"probes": [SURFACE]}
    task = plan_of(sweep, store).tasks[1]
    run_trial(task.trial, store, device=CPU, probes=task.probes)
    sheet = sheet_of(sweep, store)
    assert sheet.status.counts == "4 of 4 trials done, 3 lack loss_surface, 0 failed, 0 missing"
    (table,) = sheet.probes
    assert report.text(table, "clean", "sharpness").endswith(" (1 of 2, 1 lacks loss_surface)")
    assert report.text(table, "ops", "sharpness") == "lacks loss_surface"
    assert sheet.table.cells["clean", "test/clean_acc"].seeds == 2
    cell = table.cells["clean", "sharpness"]
    assert [(one.why, one.probe, one.seed) for one in cell.absent] == [("lacks probe", "loss_surface", "0")]


def test_every_format_shows_the_metrics_of_probes_beside_the_main_one(store: Store) -> None:
    grid = {"data.poison": ["clean", "ops"], "train.batch_size": [16, 32], "seed": [0]}
    sweep = finished(store, grid=grid) | {"probes": [SURFACE]}
    for task in plan_of(sweep, store).tasks[:2]:
        run_trial(task.trial, store, device=CPU, probes=task.probes)
    sheet = sheet_of(sweep, store)
    (table,) = sheet.probes
    sharp = report.text(table, "clean, 16", "sharpness")
    main = report.text(sheet.table, "clean", "16")
    acc = report.text(table, "clean, 16", "centre_acc")
    loss = report.text(table, "clean, 16", "centre_loss")
    assert f"| clean, 16 | {main} | {loss} | {acc} | {sharp} |" in report.sheet_markdown(sheet)
    latex = report.latex(sheet)
    assert f"clean, 16 & {main} & {loss} & {acc} & {sharp} " in latex
    assert r"\label{tab:tiny:loss-surface}" in latex
    lines = list(csv.DictReader(io.StringIO(report.comma_separated(sheet))))
    assert len(lines) == 4 + 4 * 3, "the main metric appears once"
    (line,) = [
        x for x in lines if (x["row"], x["column"], x["metric"]) == ("clean", "16", "loss_surface/sharpness")
    ]
    assert float(line["mean"]) == table.cells["clean, 16", "sharpness"].mean
    assert {x["absent"] for x in lines if x["row"] == "ops" and x["metric"] != "test/clean_acc"} == {
        "lacks loss_surface"
    }
    parsed = json.loads(report.as_json([sheet]))
    assert parsed["counts"]["lacking"] == {"loss_surface": 2}
    (probe,) = parsed["probes"]
    assert (probe["probe"], probe["columns"]) == ("loss_surface", list(table.columns))
    assert {(c["row"], c["column"]) for c in probe["cells"]} == set(table.cells)


def test_a_report_that_names_its_metrics_gets_no_probe_tables(store: Store) -> None:
    metrics = {"sharp": "loss_surface/sharpness", "accuracy": "test/clean_acc"}
    sweep = finished(store) | {"probes": [SURFACE], "report": {"metrics": metrics}}
    sheet = sheet_of(sweep, store)
    assert sheet.probes == ()
    assert sheet.table.columns == ("sharp", "accuracy")
    assert report.text(sheet.table, "clean", "sharp") == "lacks loss_surface"
    assert sheet.table.cells["clean", "accuracy"].seeds == 2


def test_claims_and_comparisons_use_the_sweeps_own_metric(store: Store) -> None:
    words = {
        "rows": [],
        "columns": "data.poison",
        "compare": [["clean", "ops"]],
        "claims": [
            {"says": "it is lower", "lower": {"data.poison": "ops"}, "higher": {"data.poison": "clean"}}
        ],
    }
    sweep = finished(store, report=words)
    before, after = sheet_of(sweep, store), sheet_of(sweep | {"probes": [SURFACE]}, store)
    assert after.comparisons == before.comparisons
    assert after.claims == before.claims
    (table,) = after.probes
    assert (table.rows, table.row_axes) == (("clean", "ops"), ("data.poison",))


def test_a_failed_probe_is_not_a_failed_training(store: Store, tmp_path: Path) -> None:
    sweep = finished(store) | {"probes": [SURFACE]}
    key = plan_of(sweep, store).tasks[0].key
    Ledger(store.where).fail(key, {"error": "Boom: no", "traceback": None, "kind": "trial"})
    sheet = sheet_of(sweep, store)
    assert sheet.status.counts == (
        "4 of 4 trials done, 4 lack loss_surface, 1 failed in a probe, 0 failed, 0 missing"
    )
    assert [entry.key for entry, _ in sheet.status.failed()] == [key], "opsctl retry runs it again"
    assert sheet.status.left == 3
    assert sheet.table.cells["clean", "test/clean_acc"].seeds == 2
    assert "failed: data.poison=clean, seed=0: in a probe: trial: Boom: no" in report.sheet_markdown(sheet)
    (parsed,) = document_of([sheet])["sweeps"]
    first = parsed["trials"][0]
    assert (first["state"], first["error"], first["lacks"]) == ("done", "Boom: no", ["loss_surface"])


def test_status_and_the_page_count_trials_that_lack_probes(
    store: Store, opsctl: Opsctl, tmp_path: Path
) -> None:
    file = write(tmp_path, finished(store) | {"probes": ["distance"]})
    assert "4 of 4 trials done, 4 lack distance, 0 failed, 0 missing" in opsctl("status", file)[1]
    code, out, _ = opsctl("report", file)
    assert code == 0
    assert "4 of 4 trials done, 4 lack distance" in out
    assert "What the probe distance found, beside test/clean_acc." in out
    page = tmp_path / "page.html"
    write_page([sheet_of(tiny(probes=["distance"]), store)], page, store.where)
    text = page.read_text()
    assert "4 trials: 4 done, 4 lack distance" in text
    assert "done, lacks distance" in text
    assert "not run" not in text


# -- the plan shows the cost


def test_a_plan_lists_the_trainings_for_a_new_probe_and_why(store: Store) -> None:
    plan = plan_of(tiny(), store)
    for task, keep in zip(plan.tasks, ("weights", "weights", "none"), strict=False):
        run_trial(task.trial, store, device=CPU, run=RunSpec(keep=keep))
    after = plan_of(tiny(probes=[SHUFFLE, SURFACE]), store)
    assert after.work == (
        "0 data sets to build, 1 trials to run, 1 to train again for a probe, 2 to probe from kept weights"
    )
    assert lacking_probes(after) == [
        "of the trials already done 3 lack shuffle_test, 3 lack loss_surface",
        "4 probes run from kept weights, without training",
        "1 trial must be trained again because its weights were not kept: data.poison=ops, seed=0",
    ]
    watching = plan_of(tiny(probes=["distance", SURFACE, "early_stopping"]), store)
    assert lacking_probes(watching)[1:] == [
        "3 trials must be trained again because distance and early_stopping need every epoch (kept weights are "
        "too late): data.poison=clean, seed=0; data.poison=clean, seed=1; data.poison=ops, seed=0"
    ]
    assert lacking_probes(plan_of(tiny(), store)) == []


def test_the_plan_command_lists_weights_that_are_kept_and_lost(
    opsctl: Opsctl, tmp_path: Path, store: Store
) -> None:
    file = write(tmp_path, tiny())
    assert "weights of 4 trials will be kept on disk, 1.0 MB" in opsctl("plan", file)[1]
    finished(store)
    file = write(tmp_path, tiny(probes=[SURFACE]))
    _, out, _ = opsctl("plan", file)
    assert "0 trials to run, 4 to probe from kept weights, 4 trials already done, 4 in all" in out
    assert "4 probes run from kept weights, without training" in out
    assert "will be kept" not in out
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("name: tiny", "name: other").replace("epochs: 2", "epochs: 1"))
    code, out, _ = opsctl("plan", file, other)
    assert code == 0
    assert "4 trials: 0 to run, 4 to probe from kept weights, 4 done" in out
    assert "weights of 4 trials will be kept on disk, 1.0 MB" in out


# -- which weights are kept

WIDTHS = {
    "data.poison": ["clean"],
    "train.architecture": [{"kind": "resnet18", "width": 16}, "lenet5", {"kind": "resnet18", "width": 4}],
    "seed": [0, 1],
}


def test_the_size_of_weights_is_that_of_the_file(store: Store) -> None:
    (task, *_) = plan_of(tiny(), store).tasks
    run_trial(task.trial, store, device=CPU, run=RunSpec(keep="weights"))
    wanted = WeightSizes(store).of(task.trial)
    file = (store.root / "trials" / task.key / "weights.pt").stat().st_size
    assert wanted is not None
    assert wanted < file < wanted + 10_000, "torch adds some kilobytes"
    (memory,) = (store.root / "weights").iterdir()
    memory.write_text('{"bytes": 5}')
    assert WeightSizes(store).of(task.trial) == 5, "a network is counted once per store"


def test_the_smallest_networks_keep_their_weights_within_the_limit(store: Store) -> None:
    sizes = choice(store, grid=WIDTHS).sizes
    keys = [task.key for task in plan_of(tiny(grid=WIDTHS), store).tasks]
    large, lenet, narrow = (sizes[keys[i]] or 0 for i in (0, 2, 4))
    assert narrow < lenet < large
    found = choice(store, grid=WIDTHS, run={"keep_gb": (2 * narrow + lenet) / 1e9})
    assert found.kept == {keys[4], keys[5], keys[2]}
    (line,) = found.lines()
    assert line.startswith("weights of 3 of 6 trials will be kept on disk, ")
    assert "3 exceed run.keep_gb: " in line
    assert "a probe added later must train 3 trials again; run.keep: weights keeps all, " in line
    assert choice(store, grid=WIDTHS, run={"keep": "weights"}).kept == set(keys)
    (line,) = choice(store, grid=WIDTHS, run={"keep": "none"}).lines()
    assert line.startswith("no weights are kept (run.keep: none), which saves ")
    assert line.endswith("a probe added later must train 6 trials again")
    assert choice(store, grid=WIDTHS, run={"keep": "none"}).kept == frozenset()
    assert together([found, choice(store, grid=WIDTHS)]) == [
        f"weights of 6 trials will be kept on disk, {(sum(v or 0 for v in sizes.values())) / 1e6:.1f} MB"
    ]


@pytest.mark.parametrize("done", [(), (2,), (3, 4), (2, 4, 5), (0, 1, 2, 3, 4)])
def test_a_driver_that_starts_later_keeps_the_same_weights(store: Store, done: tuple[int, ...]) -> None:
    """The first driver has finished some trials by then, and stored the weights that it chose to keep."""
    plan = plan_of(tiny(grid=WIDTHS), store)
    sizes = choice(store, grid=WIDTHS).sizes
    keys = [task.key for task in plan.tasks]
    most = {"keep_gb": sum(sizes[keys[i]] or 0 for i in (4, 5, 2)) / 1e9}
    first = choice(store, grid=WIDTHS, run=most).kept
    assert first == {keys[i] for i in (4, 5, 2)}
    for i in done:
        Ledger(store.where).publish(keys[i], {"metrics": {"test/clean_acc": 0.5}})
        if keys[i] in first:
            (store.root / "trials" / keys[i] / "weights.pt").write_bytes(b"")
    second = choice(store, grid=WIDTHS, run=most).kept
    assert second == first - {keys[i] for i in done}


def test_a_network_that_cannot_be_built_here_keeps_no_weights_by_default(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LibraryModel, "available", False)  # as where its library is missing
    monkeypatch.setattr(meta, "_built", {})
    wrong = {"kind": "torchvision", "name": "resnet18", "options": {"colour": "red"}}
    grid = {"train.architecture": {"fine": "lenet5", "wrong": wrong}, "seed": [0]}
    base = {"data": {"limit": 60}, "train": TRAIN, "evaluation": {"limit": 50}}
    found = choice(store, grid=grid, base=base)
    assert list(found.sizes.values())[1] is None
    assert len(found.kept) == 1
    assert "1 are of unknown size: a probe added later must train 1 trial again" in found.lines()[0]
    assert len(choice(store, grid=grid, base=base, run={"keep": "weights"}).kept) == 2


def test_a_search_keeps_weights_of_the_trials_that_it_runs(store: Store) -> None:
    run = {"search": "optuna", "num_samples": 1}
    (line,) = choice(store, run=run).lines()
    assert line == (
        "weights of 4 trials will be kept on disk, 1.0 MB if all of them run (the search runs 2 at most)"
    )


@pytest.mark.parametrize("keep", ["weights", "none"])
def test_a_limit_together_with_all_or_none_is_rejected(store: Store, keep: str) -> None:
    with pytest.raises(
        InputError, match=f"test: run: keep: {keep} keeps .* weights, so keep_gb: 1 says nothing"
    ):
        plan_of(tiny(run={"keep": keep, "keep_gb": 1}), store)


def test_weights_belong_to_the_training_that_gave_the_result(store: Store) -> None:
    """A worker killed between writing weights and result leaves weights without a result."""
    for task, keep in zip(plan_of(tiny(), store).tasks, ("weights", "none"), strict=False):
        file = store.root / "trials" / task.key / "weights.pt"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"those of a training that was killed")
        run_trial(task.trial, store, device=CPU, run=RunSpec(keep=keep))
        assert file.exists() == (keep == "weights")
        if file.exists():
            assert file.stat().st_size > 100_000


def test_damaged_weights_are_replaced_when_the_trial_is_trained_again(store: Store) -> None:
    sweep = finished(store, grid={"seed": [0]}) | {"probes": [SURFACE]}
    (task,) = plan_of(sweep, store).tasks
    file = store.root / "trials" / task.key / "weights.pt"
    file.write_bytes(b"torn")
    run_trial(task.trial, store, device=CPU, probes=task.probes, run=RunSpec(keep="weights"))
    assert file.stat().st_size > 100_000


# -- what can go


def test_gc_keeps_weights_without_the_option(opsctl: Opsctl, store: Store) -> None:
    finished(store, grid={"seed": [0, 1]})
    files = [*(store.root / "trials").glob("*/weights.pt")]
    assert len(files) == 2
    _, out, _ = opsctl("cache", "gc", "--yes")
    assert "2 trials keep weights, 0.5 MB in all; opsctl cache gc --weights removes them" in out
    assert all(file.exists() for file in files)
    assert "and the weights of 2 trials, 0.5 MB" in opsctl("cache", "ls")[1]
    _, out, _ = opsctl("cache", "gc", "--weights", "--yes")
    assert "kept weights; without them a probe added later must train this trial again" in out
    assert not any(file.exists() for file in files)
    assert plan_of(tiny(grid={"seed": [0, 1]}), store).done == 2, "results stay"


def test_gc_removes_weights_of_unfinished_trainings(opsctl: Opsctl, store: Store) -> None:
    import os
    import time

    import torch

    file = store.root / "trials" / ("a" * 16) / "weights.pt"
    file.parent.mkdir(parents=True)
    write_tensors(file, {"w": torch.zeros(3)})
    assert "nothing to remove" in opsctl("cache", "gc", "--yes")[1], "it may be about to publish"
    old = time.time() - 2 * 86400
    os.utime(file, (old, old))
    assert "weights of a training that was killed" in opsctl("cache", "gc", "--yes")[1]
    assert not file.exists()
