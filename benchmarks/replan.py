"""Planning and status of a finished sweep with thousands of trials.

    python benchmarks/replan.py [--quick]

The results are of real records' size: each has a history of 200 epochs. Planning is `make_plan` on a local store:
expansion, keys, and reading every result. Status is `opsctl status` as a process, from its start to its end, with
the table of all results; the sweep was planned before, as a sweep that runs was. Each is measured in wall
and CPU seconds: on a busy machine the former includes other processes. Results are added to
benchmarks/results/replan.jsonl, unless the run is quick.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import yaml

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.snapshot import version_of
from orchestrator.planning.sweep_file import load
from orchestrator.storage.ledger import Ledger
from poisons import Store
from trainers.provenance import environment
from trainers.spec import plain

EPOCHS = 200
CELLS = 100  # of the grid, each with as many seeds as it takes


def main() -> None:
    """Measures sweeps of growing size and prints them."""
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for trials in (200,) if args.quick else (1000, 5000):
        with tempfile.TemporaryDirectory() as name:
            row = measure(trials, Path(name), 1 if args.quick else args.repeats)
        for what, value in row.items():
            print(f"{what}: {value}")
        if not args.quick:
            record.append("replan", row)


def measure(trials: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds of planning and of a status, for a finished sweep of so many trials."""
    file, store = written(trials, folder), Store(folder / "store")
    size = finish(planned(file, store), Ledger(store.where))
    steps: dict[str, list[float]] = {}
    for _ in range(repeats):
        note(steps, "make_plan", lambda: planned(file, store))
        note(steps, "opsctl status", lambda: opsctl("status", file, store))
    spreads = {name: record.spread([round(value, 3) for value in values]) for name, values in steps.items()}
    return {"trials": trials, "kilobytes a record": round(size / 1000, 1), **spreads}


def written(trials: int, folder: Path) -> Path:
    """The file of a sweep of so many trials."""
    sweep = {
        "name": "replan",
        "question": "How long does it take to plan it again?",
        "base": {"train": {"architecture": "wide_resnet", "optimizer": "sgd", "epochs": EPOCHS}},
        "grid": {
            "data.poison": ["clean", "ops", "em", ["em", "ops"]],
            "train.architecture.width": [1, 2, 4, 8, 10],
            "train.optimizer.lr": [0.01, 0.02, 0.05, 0.1, 0.2],
            "seed": list(range(trials // CELLS)),
        },
        "report": {"rows": ["train.architecture.width", "train.optimizer.lr"], "columns": "data.poison"},
    }
    file = folder / "replan.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file


def planned(file: Path, store: Store) -> Plan:
    """The plan, and its snapshot kept, as every command that plans does."""
    version = version_of(file) or ""
    plan = make_plan(load(file), store, str(file), version=version)
    plan.snapshot.keep(Ledger(store.where).storage, version)
    return plan


def finish(plan: Plan, ledger: Ledger) -> int:
    """Publish a result of every trial; the bytes of the last. Nothing is flushed: a power cut may come."""
    flush, os.fsync = os.fsync, lambda _: None
    try:
        rng, about = random.Random(0), environment()
        for task in plan.tasks:
            names = ("train/loss", "train/acc", "test/clean_acc", "seconds")
            history = [
                {"epoch": float(epoch), **{name: rng.random() for name in names}}
                for epoch in range(1, EPOCHS + 1)
            ]
            metrics = {name: rng.random() for name in task.trial.metrics}
            result = {"spec": plain(task.trial), "metrics": metrics, "warnings": [], "history": history}
            per_class = [rng.random() for _ in range(10)]
            result |= {"per_class_acc": per_class, "seconds": 60.0, "environment": about, "needs": task.needs}
            ledger.publish(task.key, result)
    finally:
        os.fsync = flush
    return len(ledger.storage.read(f"trials/{plan.tasks[-1].key}/result.json") or b"")


def opsctl(command: str, file: Path, store: Store) -> None:
    words = [sys.executable, "-m", "orchestrator", command, str(file), "--store", store.where]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def note(steps: dict[str, list[float]], name: str, work: Callable[[], object]) -> None:
    """Seconds of the clock and of the processor, those of child processes with them."""
    start, used = time.perf_counter(), processor()
    work()
    steps.setdefault(f"{name}, s", []).append(time.perf_counter() - start)
    steps.setdefault(f"{name}, processor s", []).append(processor() - used)


def processor() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
