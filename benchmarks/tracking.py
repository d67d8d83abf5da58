"""Tracking: what 2,000 trials of 50 epochs in MLflow cost a sweep, compared with the calls of a training script.

    python benchmarks/tracking.py [--quick] [--keep DIR]

Ours is the observer of a sweep: it receives every epoch of trials that run 16 at a time, faster than real trials, and
writes to a sqlite file or to the server that `opsctl ui` starts. The plain side calls MLflow at every epoch of a
sample of trials, one after the other: log_metric for each metric, or log_batch for all of them. Points are counted
in the database. Results are added to benchmarks/results/tracking.jsonl, unless the run is quick.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import record

from orchestrator.planning.plan import Plan, Task, make_plan
from orchestrator.planning.spec import SweepSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.tracking import LiveTracker, Tracker
from orchestrator.tracking import server as mlflow_server
from orchestrator.tracking.payloads import done, now, params, points, tags
from poisons import Store
from trainers.provenance import environment

EPOCHS, SLOTS, PORT = 50, 16, 5097
METRICS = ("train/loss", "train/acc", "test/clean_acc", "train/a", "train/b", "train/c")


def main() -> None:
    """Measures all sides and prints them."""
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the store there, to look at it")
    args = parser.parse_args()
    trials, sample = (48, 4) if args.quick else (args.trials, 50)
    with tempfile.TemporaryDirectory() as name:
        row = measure(args.keep or Path(name), trials, sample)
    for what, value in row.items():
        print(f"{what}: {value}")
    if not args.quick:
        record.append("tracking", row)


def measure(folder: Path, trials: int, sample: int) -> dict[str, Any]:
    store = Store(folder / "store")
    plan = planned(store, trials)
    file, served, again = (folder / f"{name}.db" for name in ("direct", "served", "synced"))
    with serving(served) as server:
        sides = {"server": ours(plan, store, server, served)}
        sides["sqlite"] = ours(plan, store, f"sqlite:///{file}", file)
        sides["synced"] = synced(plan, store, again)
        for where, uri in (("sqlite", f"sqlite:///{file}"), ("server", server)):
            for way in (each, batched):
                plan_of_sample = planned(store, sample, way.__name__)
                seconds = way(Tracker(uri, plan_of_sample, store))
                sides[f"{where}, {way.__name__}"] = {
                    "sample": len(plan_of_sample.tasks),
                    "ms a trial": 1000 * seconds,
                    "extrapolated seconds": seconds * len(plan.tasks),
                    "times ours": 1000 * seconds / sides[where]["ms a trial"],
                }
    return {"trials": trials, "epochs": EPOCHS, "metrics": len(METRICS), **sides}


def planned(store: Store, trials: int, name: str = "load") -> Plan:
    """A sweep of that many trials, all of which the ledger says are done."""
    poisons, rates = ["clean", "ops"], [0.01, 0.02, 0.05, 0.1]
    seeds = list(range(-(-trials // 8)))
    sweep = {
        "name": name,
        "question": "What does tracking cost?",
        "base": {
            "data": {"limit": 60},
            "train": {"architecture": "lenet5", "epochs": EPOCHS, "optimizer": "sgd"},
        },
        "grid": {"data.poison": poisons, "train.optimizer.lr": rates, "seed": seeds},
    }
    plan, ledger = make_plan(SweepSpec.parse(sweep, name), store, name), Ledger(store.where)
    for task in plan.tasks:
        if ledger.result(task.key) is None:
            ledger.publish(task.key, invented(task))
    return plan


def invented(task: Task) -> Result:
    """An invented record of a trial."""
    draw = random.Random(task.key)
    history = [
        {"epoch": float(epoch), **{name: draw.random() for name in METRICS}} for epoch in range(1, EPOCHS + 1)
    ]
    return {
        "metrics": {**history[-1], "test/peak_clean_acc": max(row["test/clean_acc"] for row in history)},
        "history": history,
        "seconds": 60.0,
        "device": "cpu",
        "environment": environment(),
        "data_key": task.trial.data.key,
    }


def ours(plan: Plan, store: Store, uri: str, file: Path) -> dict[str, Any]:
    """The whole sweep through the observer: how long it takes until all is there, how long callers waited."""
    ledger, warnings = Ledger(store.where), list[str]()
    start = time.perf_counter()
    live = LiveTracker(Tracker(uri, plan, store), warnings.append)
    live.sweep_started(plan)
    waited = longest = 0.0
    for calls in turns(plan, ledger):
        for call, *arguments in calls:
            begun = time.perf_counter()
            getattr(live, call)(*arguments)
            took = time.perf_counter() - begun
            waited, longest = waited + took, max(longest, took)
    live.sweep_ended()
    seconds = time.perf_counter() - start
    trials = len(plan.tasks)
    assert live.complete, str(warnings)
    return {
        "seconds": seconds,
        "ms a trial": 1000 * seconds / trials,
        "callers waited, ms a trial": 1000 * waited / trials,
        "callers waited, share of a trial of 60 s": waited / trials / 60,
        "longest call, ms": 1000 * longest,
        **counted(file, plan),
    }


def turns(plan: Plan, ledger: Ledger) -> Iterator[list[tuple[Any, ...]]]:
    """What an observer hears, a moment at a time: 16 trials at a time, epoch by epoch."""
    for first in range(0, len(plan.tasks), SLOTS):
        tasks = plan.tasks[first : first + SLOTS]
        records = [ledger.result(task.key) or {} for task in tasks]
        yield [("trial_started", task) for task in tasks]
        for epoch in range(EPOCHS):
            yield [
                ("trial_progress", task, [its["history"][epoch]])
                for task, its in zip(tasks, records, strict=True)
            ]
        yield [("trial_done", task, its) for task, its in zip(tasks, records, strict=True)]


def synced(plan: Plan, store: Store, file: Path) -> dict[str, Any]:
    """`opsctl track`: all of it from the ledger; and again, when nothing is missing."""
    tracker = Tracker(f"sqlite:///{file}", plan, store)
    start = time.perf_counter()
    tracker.sync()
    seconds, start = time.perf_counter() - start, time.perf_counter()
    tracker.sync()
    return {"seconds": seconds, "again, seconds": time.perf_counter() - start, **counted(file, plan)}


def counted(file: Path, plan: Plan) -> dict[str, int]:
    """Runs and epochs' points of this sweep in a database, and how many are missing or double."""
    runs = (
        "SELECT r.run_uuid FROM runs r JOIN experiments e USING (experiment_id) JOIN tags t USING (run_uuid) "
        "WHERE t.key = 'opsctl.key' AND e.name = ? AND r.lifecycle_stage = 'active' AND r.status = 'FINISHED'"
    )
    named = ", ".join(f"'{name}'" for name in METRICS)
    points = f"SELECT COUNT(*) FROM metrics WHERE key IN ({named}) AND run_uuid IN ({runs})"
    with sqlite3.connect(file) as database:
        ((run_count,),) = database.execute(f"SELECT COUNT(*) FROM ({runs})", [plan.sweep.name])
        ((point_count,),) = database.execute(points, [plan.sweep.name])
    database.close()
    wanted = len(plan.tasks) * EPOCHS * len(METRICS)
    return {"runs": run_count, "points": point_count, "lost": wanted - point_count}


def each(tracker: Tracker) -> float:
    """Seconds a trial of a script that calls log_metric for each metric of each epoch."""

    def log(run_id: str, epoch: int, row: dict[str, float]) -> None:
        for name in METRICS:
            tracker.client.log_metric(run_id, name, row[name], step=epoch)

    return _plain(tracker, log)


def batched(tracker: Tracker) -> float:
    """Seconds a trial of a script that calls log_batch at each epoch."""
    return _plain(tracker, lambda run_id, _, row: tracker.client.log_batch(run_id, points([(now(), row)])))


def _plain(tracker: Tracker, log: Any) -> float:
    records = [invented(task) for task in tracker.plan.tasks]
    start = time.perf_counter()
    for task, its in zip(tracker.plan.tasks, records, strict=True):
        run_tags = tags(task, tracker.plan, "unknown")
        run_id = tracker.client.create_run(tracker.experiment, tags=run_tags, run_name="plain").info.run_id
        tracker.client.log_batch(run_id, params=params(task.trial))
        for epoch, row in enumerate(its["history"], start=1):
            log(run_id, epoch, row)
        tracker.client.log_batch(run_id, done(its).metrics)
        tracker.client.set_terminated(run_id)
    return (time.perf_counter() - start) / len(records)


@contextmanager
def serving(file: Path) -> Iterator[str]:
    """The server of `opsctl ui` on a database; its address."""
    process = mlflow_server.serve(f"sqlite:///{file}", host="127.0.0.1", port=PORT)
    try:
        if not mlflow_server.answers(process, "127.0.0.1", PORT, threading.Event()):
            sys.exit("the MLflow server did not start")
        yield f"http://127.0.0.1:{PORT}"
    finally:
        mlflow_server.end(process)


if __name__ == "__main__":
    main()
