"""The sweep that is disturbed, and what an undisturbed run of it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orchestrator.depots.results import Ledger
from orchestrator.depots.stores import open_store
from orchestrator.plan import Plan
from orchestrator.trial import run_trial
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny
from tests.test_sweep import left_over

EM = {"kind": "em", "generator": "lenet5", "steps": 5, "max_rounds": 3, "stop_error": 0, "batch_size": 50}


def sweep(seeds: int) -> dict[str, Any]:
    """Trials of a second or two, with a checkpoint every few epochs; one of three data sets takes work."""
    return tiny(
        name="chaos",
        base={"data": {"limit": 300}, "train": {**TRAIN, "epochs": 40}, "evaluation": {"limit": 50}},
        grid={"data.poison": {"clean": "clean", "ops": "ops", "em": EM}, "seed": list(range(seeds))},
        run={"checkpoint_seconds": 0.3},
    )


def as_if_alone(told: dict[str, Any], store: Path | str, other: Path) -> Plan:
    """The plan of a sweep whose every trial is done, with the numbers that it has alone, to the last bit."""
    plan = plan_of(told, open_store(store))
    compare(plan, store, other)
    return plan


def compare(plan: Plan, store: Path | str, other: Path) -> None:
    """Every trial of the plan is done in a store, with the numbers that it has alone, in `other`."""
    assert plan.missing == ()
    alone, threads = Store(other), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for task in plan.tasks:
            quiet, record = run_trial(task.trial, alone, device=CPU), Ledger(store).result(task.key)
            assert record is not None
            assert record["history"] == quiet["history"], f"{task.point.name} differs"
            assert record["metrics"] == quiet["metrics"]
    finally:
        torch.set_num_threads(threads)


def nothing_left(store: Path) -> None:
    """No file that was being written, no lease, no mark of a driver."""
    assert left_over(store) == []
    assert [*(store / "leases").iterdir(), *(store / "drivers").iterdir()] == []
