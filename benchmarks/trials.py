"""What scheduling costs a trial: whole sweeps of trials that do nearly nothing, beside a bare pool of Ray actors
that makes the same calls; and trials of one second on two slots, beside the time that they would take ideally.

    python benchmarks/trials.py [--quick]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil
import record
import torch

from orchestrator.execution.ray.run import run_plan
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan, Task, make_plan
from orchestrator.planning.spec import RunSpec, SweepSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from trainers.spec import plain

SLOTS = 2
COUNTS = (200, 1000, 5000)


def trivial(trial: TrialSpec, store: Store, *, seconds: float = 0.0, **_: Any) -> Result:
    """A trial without the training: it waits, and publishes a result."""
    time.sleep(seconds)
    metrics = {"test/clean_acc": 0.5, "test/peak_clean_acc": 0.5}
    record = {"metrics": metrics, "history": [{"epoch": 1.0, **metrics}], "seconds": seconds, "needs": []}
    return Ledger(store.where).publish(trial.key, record)


def second(trial: TrialSpec, store: Store, **_: Any) -> Result:
    return trivial(trial, store, seconds=1.0)


class Watch(Observer):
    """When the first trial started and the last was done; how much memory the driver had at each hundredth."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.done = 0
        self.memory: list[int] = []

    def trial_started(self, task: Task) -> None:
        self.first = self.first or time.perf_counter()

    def trial_done(self, task: Task, record: Result) -> None:
        self.last = time.perf_counter()
        if self.done % 100 == 0:
            self.memory.append(psutil.Process().memory_info().rss)
        self.done += 1


def planned(count: int, store: Store) -> Plan:
    """A plan of so many trials, whose data sets are there."""
    sweep = SweepSpec.parse(
        {
            "name": "trials",
            "question": "What does scheduling cost?",
            "base": {"data": {"limit": 60}},
            "grid": {"seed": list(range(count))},
        },
        "benchmark",
    )
    for spec in make_plan(sweep, store, "benchmark").data:
        store.ensure(spec)
    return make_plan(sweep, store, "benchmark")


def ours(count: int, *, pause: bool) -> dict[str, Any]:
    """A sweep through the engine."""
    with tempfile.TemporaryDirectory() as folder:
        store, watch = Store(folder), Watch()
        plan = planned(count, store)
        start = time.perf_counter()
        outcome = run_plan(plan, store, watch, work=second if pause else trivial)
        whole = time.perf_counter() - start
    assert (outcome.done, outcome.failed) == (count, ())
    memory = {"first": watch.memory[0] / 1e6, "last": watch.memory[-1] / 1e6}
    return {"seconds": watch.last - watch.first, "whole": whole, "driver_mb": memory}


def pool(count: int) -> dict[str, Any]:
    """The same calls by a bare pool of actors."""
    import ray  # noqa: TID251  (the other side; imported after orchestrator.execution.ray, which sets its options)
    from ray.util import ActorPool  # noqa: TID251

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        plan = planned(count, store)
        start = time.perf_counter()
        ray.init("local", include_dashboard=False, log_to_driver=False, configure_logging=False)

        @ray.remote
        class Actor:
            def __init__(self, where: str) -> None:
                torch.set_num_threads(1)
                self.store, self.run = Store(where), RunSpec()

            def call(self, trial: str) -> Result:
                return trivial(TrialSpec.parse(json.loads(trial), "trial"), self.store)

        actors = ActorPool([Actor.remote(folder) for _ in range(SLOTS)])
        texts = [json.dumps(plain(task.trial)) for task in plan.tasks]
        # wait until all actors have started
        list(actors.map(lambda actor, text: actor.call.remote(text), texts[:SLOTS]))
        first = time.perf_counter()
        list(actors.map(lambda actor, text: actor.call.remote(text), texts))
        seconds = time.perf_counter() - first
        ray.shutdown()
        return {"seconds": seconds, "whole": time.perf_counter() - start}


def alone(side: str, count: int) -> dict[str, Any]:
    """One side in a process of its own, so that neither warms the other's memory."""
    run = [sys.executable, __file__, "--side", side, "--count", str(count)]
    out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.strip().splitlines()[-1]))


def compare(counts: tuple[int, ...], repeats: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for count in counts:
        mine, bare = [], []
        for _ in range(repeats):  # in turn, so that other load affects both
            mine.append(alone("ours", count))
            bare.append(alone("pool", count))
        above = [1000 * (a["seconds"] - b["seconds"]) / count for a, b in zip(mine, bare, strict=True)]
        rows[str(count)] = {"ours": mine, "pool": bare, "ms_above_pool": above}
        print(f"{count:6} trials: {sorted(above)} ms a trial above a bare pool", flush=True)
        print(f"       driver: {[m['driver_mb'] for m in mine]} MB at the first and at the last", flush=True)
    return rows


def main() -> None:
    options = record.parser(__doc__, data=False)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seconds-trials", type=int, default=1000, help="how many trials of one second")
    options.add_argument("--side", choices=["ours", "pause", "pool"])
    options.add_argument("--count", type=int, default=0)
    wanted = options.parse_args()
    if wanted.side:
        sides = {"ours": lambda n: ours(n, pause=False), "pause": lambda n: ours(n, pause=True), "pool": pool}
        print(json.dumps(sides[wanted.side](wanted.count)))
        return
    counts, repeats, long = (
        ((50,), 1, 10) if wanted.quick else (COUNTS, wanted.repeats, wanted.seconds_trials)
    )
    rows = compare(counts, repeats)
    paused = alone("pause", long)
    ideal = long / SLOTS
    print(f"{long} trials of 1 s on {SLOTS} slots: {paused['whole']:.1f} s in all, ideal {ideal:.0f} s")
    if not wanted.quick:
        record.append("trials", {"rows": rows, "paused": {"trials": long, "ideal": ideal, **paused}})


if __name__ == "__main__":
    main()
