"""The sweep that is disturbed, the numbers of an undisturbed run, and the check that nothing is left."""

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


def as_if_alone(sweep: dict[str, Any], store: Path | str, other: Path) -> Plan:
    """The plan of a sweep after a check that every trial equals an undisturbed one bit for bit.
    `other` is a store where trials run undisturbed; it may hold some results already."""
    plan = plan_of(sweep, open_store(store))
    compare(plan, store, other)
    return plan


def compare(plan: Plan, store: Path | str, other: Path) -> None:
    """Check that every trial of the plan is done in a store, with the numbers of the undisturbed one in `other`."""
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
    """Check that MLflow has one finished run of every trial with each point of its result once, bit for bit."""
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
    """The points that the run of a finished trial must have: each epoch's, and the trial's own at the last epoch."""
    history, final = record["history"], {**record["metrics"], "seconds": record["seconds"]}
    found: Points = {}
    for row in history:
        for metric in row.keys() - {"epoch"}:
            found.setdefault(metric, []).append((int(row["epoch"]), row[metric]))
    last = int(history[-1]["epoch"])
    return found | {metric: [(last, final[metric])] for metric in final.keys() - found.keys()}


def nothing_left(store: Path) -> None:
    """Check that there is no partial file, checkpoint, lease or heartbeat of a driver."""
    assert left_over(store) == []
    assert list(store.glob("trials/*/*checkpoint*")) == []
    assert [*(store / "leases").iterdir(), *(store / "drivers").iterdir()] == []
