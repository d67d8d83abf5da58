"""Sweeps whose trainings start from given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.stores import storage_of
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny
from trainers import InputError
from trainers.architectures.resnet import ResNet18


def sweep(start: Any, **more: Any) -> dict[str, Any]:
    train = {**TRAIN, "start": start} if start is not None else TRAIN
    base = {"data": {"limit": 60, "poison": "ops"}, "train": train, "evaluation": {"limit": 50}}
    return tiny(base=base, grid={"seed": [0]}, **more)


def test_the_weights_of_another_trial(store: Store) -> None:
    (first,) = plan_of(sweep(None), store).tasks
    with pytest.raises(
        InputError, match=f"no weights of the trial {first.key} in the store: run its sweep first"
    ):
        plan_of(sweep({"kind": "trial", "of": first.key}), store)
    run_trial(first.trial, store, device=CPU, run=RunSpec(keep="weights"))
    plan = plan_of(sweep({"kind": "trial", "of": first.key}), store)
    assert plan.starts == [first.key], "which a running sweep protects"
    (task,) = plan.tasks
    run_trial(task.trial, store, device=CPU)
    before, after = (Ledger(storage_of(store)).result(key) for key in (first.key, task.key))
    assert before is not None
    assert after is not None
    assert after["history"][0]["train/loss"] < before["history"][0]["train/loss"]
    assert plan_of(sweep({"kind": "trial", "of": first.key}), store).starts == [], "once it has run"


def test_a_file_is_named_by_its_bytes(store: Store, tmp_path: Path) -> None:
    def planned(name: str) -> Plan:
        return plan_of(sweep({"kind": "weights", "path": str(tmp_path / name)}), store)

    (trial,) = (task.trial for task in plan_of(sweep(None), store).tasks)
    model = trial.train.network(num_classes=10, shape=(3, 32, 32), seed=5)
    for name in ("a.pt", "b.pt"):
        torch.save(model.state_dict(), tmp_path / name)
    assert (
        planned("a.pt").tasks[0].key
        == planned("b.pt").tasks[0].key
        != plan_of(sweep(None), store).tasks[0].key
    )
    with pytest.raises(InputError, match=r"test: the trial \(seed=0\): start: .*c.pt cannot be read"):
        planned("c.pt")


def test_a_grid_of_starts(store: Store, tmp_path: Path) -> None:
    (trial,) = (task.trial for task in plan_of(sweep(None), store).tasks)
    file = tmp_path / "a.pt"
    torch.save(trial.train.network(num_classes=10, shape=(3, 32, 32), seed=5).state_dict(), file)
    starts = {"drawn": None, "all": {"kind": "weights", "path": str(file)}}
    starts["last"] = {**starts["all"], "layers": "last"}  # type: ignore[dict-item]
    plan = plan_of(tiny(grid={"train.start": starts, "seed": [0, 1]}), store)
    assert len({task.key for task in plan.tasks}) == 6


def test_weights_of_another_network_are_refused_in_advance(store: Store, tmp_path: Path) -> None:
    (trial,) = (task.trial for task in plan_of(sweep(None), store).tasks)
    wide = trial.train.model_copy(update={"architecture": ResNet18(width=4)})
    torch.save(wide.network(num_classes=10, shape=(3, 32, 32), seed=5).state_dict(), tmp_path / "a.pt")
    store.ensure(trial.test_data)
    with pytest.raises(InputError, match=r"start: .*a.pt: these are weights of another network"):
        plan_of(sweep({"kind": "weights", "path": str(tmp_path / "a.pt")}), store)
