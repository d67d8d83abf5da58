"""The sweep that is disturbed, what an undisturbed run of it says, and what must not be left of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Plan
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.stores import open_store
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny
from tests.test_sweep import left_over

EM = {"kind": "em", "generator": "lenet5", "steps": 5, "max_rounds": 3, "stop_error": 0, "batch_size": 50}
Points = dict[str, list[tuple[int, float]]]  # of each metric: (step, value), in order


def sweep(seeds: int) -> dict[str, Any]:
    """Trials of a second or two, with a checkpoint every few epochs; one of three data sets takes work."""
    return tiny(
        name="chaos",
        base={"data": {"limit": 300}, "train": {**TRAIN, "epochs": 40}, "evaluation": {"limit": 50}},
        grid={"data.poison": {"clean": "clean", "ops": "ops", "em": EM}, "seed": list(range(seeds))},
        run={"checkpoint_seconds": 0.3},
    )


def as_if_alone(told: dict[str, Any], store: Path | str, other: Path) -> Plan:
    """The plan of a sweep whose every trial is done, with the numbers that it has alone, to the last bit.
    `other` is a store where trials run alone; it may know some from before."""
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


def tracked_whole(plan: Plan, store: Path, uri: str) -> None:
    """MLflow has one run of every trial, finished, with every point of its result once, to the last bit."""
    from orchestrator.tracking import Tracker

    tracker, ledger = Tracker(uri, plan, Store(store)), Ledger(store)
    runs = tracker.runs()
    assert {key: [run.info.status for run in group] for key, group in runs.items()} == {
        task.key: ["FINISHED"] for task in plan.tasks
    }
    for key, (run,) in runs.items():
        found: Points = {}
        for metric in run.data.metrics:
            history = tracker.client.get_metric_history(run.info.run_id, metric)
            found[metric] = sorted((point.step, point.value) for point in history)
        record = ledger.result(key)
        assert record is not None
        assert found == points(record), f"the run of {key} differs from its result"


def points(record: Result) -> Points:
    """What a run of a trial that is done must hold: each epoch's numbers, and the trial's own at the last."""
    history, told = record["history"], {**record["metrics"], "seconds": record["seconds"]}
    found: Points = {}
    for row in history:
        for metric in row.keys() - {"epoch"}:
            found.setdefault(metric, []).append((int(row["epoch"]), row[metric]))
    last = int(history[-1]["epoch"])
    return found | {metric: [(last, told[metric])] for metric in told.keys() - found.keys()}


def nothing_left(store: Path) -> None:
    """No file that was being written, no checkpoint, no lease, no heartbeat of a driver."""
    assert left_over(store) == []
    assert list(store.glob("trials/*/*checkpoint*")) == []
    assert [*(store / "leases").iterdir(), *(store / "drivers").iterdir()] == []
