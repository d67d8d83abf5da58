"""A store in which a small sweep has finished, with a file of every kind that opsctl reads back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import torch

from orchestrator.estimates.flops_kept import FlopsKept
from orchestrator.estimates.packing import ShareStore
from orchestrator.execution.trial import run_trial
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.ledger import Ledger
from poisons import DataSpec, Store
from poisons.perturbations.delta import Delta
from tests.orchestrator.sweeps import plan_of, tiny

CLAIM = {"says": "ops is lower", "lower": {"data.poison": "ops"}, "higher": {"data.poison": "clean"}}
SWEEP = tiny(
    probes=["distance"],
    report={"rows": "data.poison", "metric": "test/clean_acc", "claims": [CLAIM]},
)


def make(root: Path) -> None:
    """Create a store in which the sweep is done."""
    store = Store(root)
    run = RunSpec(keep="weights")
    for task in plan_of(SWEEP, store).tasks:
        run_trial(task.trial, store, device=torch.device("cpu"), run=run, probes=task.probes)


def add_other_files(root: Path) -> None:
    """Add other files of a store in use: a failed and a pruned trial, heartbeats, leases, ..."""
    store = Store(root)
    plan, ledger = plan_of(SWEEP, store), Ledger(store.where)
    storage, keys = ledger.storage, [task.key for task in plan.tasks]
    gone, left = keys[0], keys[1]
    record = ledger.result(gone)
    assert record is not None
    storage.remove(f"trials/{gone}/result.json")
    ledger.fail(gone, {"kind": "trial", "error": "RuntimeError: no", "traceback": "", "history": []})
    storage.remove(f"trials/{left}/result.json")
    ledger.stop(
        left, {"epoch": 1, "metric": "test/clean_acc", "value": 0.5, "scheduler": "asha", "history": []}
    )
    driver = Driver(storage, "tiny", threading.Event(), needs=plan.names, snapshot="x")
    driver.state = {
        "waiting": 1,
        "elsewhere": 0,
        "running": [{"key": left, "name": "a", "since": "2026-01-01T00:00:00+00:00", "epochs": 2}],
        "building": [{"name": plan.names[0], "word": "reading"}],
        "faults": {"machine": 1},
        "resting": 0,
        "silent": "",
    }
    driver.beat()
    storage.write(f"drivers/{driver.id}.stop", b"{}")
    storage.write(f"leases/{left}.0", driver.id.encode())
    storage.write("searches/0123456789abcdef/0", b"data.poison=ops")
    storage.write("rates/cpu-1-thread.json", json.dumps(_rates()).encode())
    FlopsKept(storage)
    ShareStore(storage).remember("0123456789abcdef", "NVIDIA H200", {"share": 0.5})
    delta = Delta(torch.zeros(10, 3, 8, 8, dtype=torch.int8), "class")
    store.add_import(delta, {"per": "class"}, {"from": "x.npy", "clean": "digits"})
    store.ensure(DataSpec.parse({"limit": 60, "poison": "ops"}, "test").pinned())


def _rates() -> dict[str, object]:
    return {"device": "cpu, 1 thread", "speeds": {"float32": {"flops": 1e11, "values": 1e9, "kernels": 1e4}}}
