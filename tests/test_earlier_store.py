"""A store written by an earlier version (commit 19a4450) is still read: nothing is built or trained again, and an
interrupted trial resumes."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.spec import RunSpec, SweepSpec
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import CPU, ROOT, Opsctl, finish, start
from tests.orchestrator.sweeps import write

ARCHIVE = ROOT / "tests" / "data" / "earlier_store.tar.gz"
SWEEP: dict[str, Any] = {
    "name": "old",
    "question": "Is a store of an earlier version read?",
    "base": {
        "data": {"source": {"kind": "digits", "size": 16}, "limit": 20},
        "train": {
            "architecture": "lenet5",
            "epochs": 3,
            "batch_size": 10,
            "augmentations": [],
            "schedule": "one_cycle",
            "precision": "float32",
        },
        "evaluation": {"limit": 20},
    },
    "grid": {"data.poison": ["clean", "ops"], "seed": [0, 1]},
    "probes": ["distance"],
    "report": {"rows": "data.poison"},
}
DATA_SETS = {
    "digits-clean-test-ef713072121d0df2",
    "digits-clean-train-4e48d5bbcc1273e1",
    "digits-ops-train-bb7e87849a0dae4e",
}
FINISHED = {"02af05f0c0518058", "0c5abc6f975262e5", "ba2e81868edddadf"}
INTERRUPTED = "e8dea0de450c9deb"  # after two of its three epochs


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "store", filter="data")
    return Store(tmp_path / "store")


def plan(store: Store) -> Plan:
    return make_plan(SweepSpec.parse(SWEEP, "test"), store, "test")


def test_nothing_of_an_earlier_store_is_planned_again(store: Store) -> None:
    todo = plan(store)
    assert set(todo.names) == DATA_SETS
    assert todo.to_build == ()
    assert [task.key for task in todo.missing] == [INTERRUPTED]
    assert {task.key for task in todo.tasks} == FINISHED | {INTERRUPTED}


def test_numbers_of_an_earlier_store_are_reported(store: Store, opsctl: Opsctl, tmp_path: Path) -> None:
    files = {key: store.root / "trials" / key / "result.json" for key in FINISHED}
    written = {key: json.loads(file.read_bytes())["metrics"]["test/clean_acc"] for key, file in files.items()}
    code, out, _ = opsctl("report", write(tmp_path, SWEEP), "--format", "trials.csv")
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(out))}
    assert code == 0
    assert {key: float(rows[key]["test/clean_acc"]) for key in FINISHED} == written
    assert all(float(rows[key]["distance/relative"]) > 0 for key in FINISHED)
    assert rows[INTERRUPTED]["state"] == "missing"
    assert "3 of 4 trials done" in opsctl("status", write(tmp_path, SWEEP))[1]


def test_histories_and_findings_of_an_earlier_store_are_read(
    store: Store, opsctl: Opsctl, tmp_path: Path
) -> None:
    """In that version they are part of the results and findings."""
    file, saved = write(tmp_path, SWEEP), tmp_path / "page.json"
    assert opsctl("plan", file)[0] == 0
    code, _, error = opsctl("report", file, "--html", str(saved))
    assert code == 0, error
    (sweep,) = json.loads(saved.read_bytes())["sweeps"]
    done = [trial for trial in sweep["trials"] if trial["state"] == "done"]
    assert {trial["key"] for trial in done} == FINISHED
    for trial in done:
        assert trial["curves"]["epoch"] == [1, 2, 3]
        assert len(trial["findings"]["distance"]["curves"]["distance"]) == 3
    assert not list(store.root.glob("trials/*/history-*")), "no file was rewritten"


def test_an_earlier_store_passes_verification(opsctl: Opsctl, store: Store) -> None:
    assert opsctl("cache", "verify")[0] == 0


def test_an_interrupted_trial_of_an_earlier_store_resumes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three epochs are not trained again; all three are reported."""
    (task,) = plan(store).missing
    rows, steps, step = list[float](), list[None](), torch.optim.SGD.step

    def counted(self: torch.optim.SGD, *args: Any, **options: Any) -> Any:
        steps.append(None)
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    record = run_trial(
        task.trial,
        store,
        device=CPU,
        run=RunSpec(keep="none"),
        probes=task.probes,
        report=lambda row: rows.append(row["epoch"]),
    )
    assert [row["epoch"] for row in record["history"]] == rows == [1, 2, 3]
    assert len(steps) == 2, "20 images in batches of 10: one epoch"
    assert plan(store).missing == ()
    assert Ledger(store.where).done() == FINISHED | {INTERRUPTED}


def test_an_earlier_store_is_tracked(store: Store, tmp_path: Path) -> None:
    code, out = finish(start("track", write(tmp_path, SWEEP), store=store.root))
    assert code == 0, out
    assert "old: 3 trials sent, 0 were there already" in out
