"""What scheduling costs: trials that do nothing or sleep, through opsctl, through Ray Tune as its documentation shows
it (with and without `reuse_actors`), and through a bare pool of Ray actors that makes the same calls.

    python benchmarks/trials.py [--quick]

`busy` is the share of its slots that a side keeps busy between the first training of its last worker and the start of
its last training. Ray is configured with as many processors as there are slots; all trials sleep.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import record

from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan, Task, make_plan
from orchestrator.planning.spec import SweepSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from trainers.spec import plain

# trials, seconds of each, slots, and the sides that are measured; Tune without reuse takes over a second for each
CASES: list[tuple[int, float, int, tuple[str, ...]]] = [
    (40, 0.0, 2, ("cold",)),
    (200, 0.0, 2, ("opsctl", "reuse", "pool")),
    (1000, 0.0, 2, ("opsctl", "reuse", "pool")),
    (5000, 0.0, 2, ("opsctl", "pool")),
    (60, 1.0, 2, ("opsctl", "cold", "reuse", "pool")),
    (12, 10.0, 2, ("opsctl", "cold", "reuse", "pool")),
    (1600, 1.0, 16, ("opsctl", "pool")),
    (320, 1.0, 16, ("reuse",)),
    (160, 10.0, 16, ("opsctl", "reuse", "pool")),
]
QUICK = [(20, 0.0, 2, ("opsctl", "cold", "reuse", "pool")), (8, 1.0, 4, ("opsctl", "pool"))]


def sleeping(trial: TrialSpec, store: Store, *, seconds: float) -> Result:
    """A trial without the training: it waits, and publishes a result that says when and in which process."""
    start = time.time()
    time.sleep(seconds)
    metrics = {"test/clean_acc": 0.5, "test/peak_clean_acc": 0.5}
    span = {"epoch": 1.0, "start": start, "end": time.time(), "process": float(os.getpid())}
    result: Any = {"key": trial.key, "metrics": metrics, "history": [span], "seconds": seconds, "needs": []}
    return Ledger(store.where).publish(trial.key, result)


class Work:
    """`sleeping` as opsctl calls it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, trial: TrialSpec, store: Store, **_: Any) -> Result:
        return sleeping(trial, store, seconds=self.seconds)


class Watch(Observer):
    """The memory of the driver at each hundredth trial, in MB."""

    def __init__(self) -> None:
        self.done = 0
        self.memory: list[float] = []

    def trial_done(self, task: Task, record: Result) -> None:
        if self.done % 100 == 0:
            self.memory.append(psutil.Process().memory_info().rss / 1e6)
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


@contextmanager
def machine(slots: int) -> Iterator[str]:
    """The address of a Ray that has so many processors."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster  # noqa: TID251  (every side runs on the same cluster)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": slots, "include_dashboard": False})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def opsctl(plan: Plan, store: Store, seconds: float, address: str, slots: int) -> dict[str, Any]:
    """A sweep, as `opsctl sweep --address` runs it."""
    from orchestrator.execution.ray.run import run_plan

    watch = Watch()
    outcome = run_plan(plan, store, watch, address=address, work=Work(seconds))
    assert (outcome.done, outcome.failed) == (len(plan.tasks), ())
    return {"driver_mb": [watch.memory[0], watch.memory[-1]]}


def tune(
    plan: Plan, store: Store, seconds: float, address: str, slots: int, *, reuse: bool
) -> dict[str, Any]:
    """Ray Tune, with a grid of trials."""
    import ray  # noqa: TID251
    from ray import tune  # noqa: TID251

    ray.init(address, log_to_driver=False, configure_logging=False)
    where = store.where

    def train(config: dict[str, Any]) -> None:
        trial = TrialSpec.parse(json.loads(config["trial"]), "trial")
        done = sleeping(trial, Store(where), seconds=seconds)
        tune.report(done["metrics"])

    trials = tune.grid_search([json.dumps(plain(task.trial)) for task in plan.tasks])
    options = {"reuse_actors": reuse, "verbose": 0, "storage_path": str(store.root / "tune")}
    name = lambda trial: trial.trial_id  # noqa: E731  (the default holds the grid's values, which are too long)
    tune.run(train, config={"trial": trials}, trial_dirname_creator=name, **options)
    ray.shutdown()
    return {}


def pool(plan: Plan, store: Store, seconds: float, address: str, slots: int) -> dict[str, Any]:
    """The same calls by a bare pool of actors."""
    import ray  # noqa: TID251
    from ray.util import ActorPool  # noqa: TID251

    ray.init(address, log_to_driver=False, configure_logging=False)

    @ray.remote
    class Actor:
        def __init__(self, where: str) -> None:
            self.store = Store(where)

        def call(self, trial: str) -> Result:
            return sleeping(TrialSpec.parse(json.loads(trial), "trial"), self.store, seconds=seconds)

    actors = ActorPool([Actor.remote(store.where) for _ in range(slots)])
    texts = [json.dumps(plain(task.trial)) for task in plan.tasks]
    list(actors.map_unordered(lambda actor, text: actor.call.remote(text), texts))
    ray.shutdown()
    return {}


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    "opsctl": opsctl,
    "cold": lambda *given: tune(*given, reuse=False),
    "reuse": lambda *given: tune(*given, reuse=True),
    "pool": pool,
}


def measured(side: str, count: int, seconds: float, slots: int) -> dict[str, Any]:
    """One side: seconds in all and from the first training to the last end, and how busy its slots were."""
    with machine(slots) as address, tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        plan = planned(count, store)
        start = time.time()
        found = SIDES[side](plan, store, seconds, address, slots)
        whole = time.time() - start
        ledger = Ledger(store.where)
        results = [ledger.result(task.key) for task in plan.tasks]
    spans = [result["history"][0] for result in results if result is not None]
    assert len(spans) == count
    begin, end = min(span["start"] for span in spans), max(span["end"] for span in spans)
    firsts: dict[float, float] = {}
    for span in spans:
        firsts[span["process"]] = min(span["start"], firsts.get(span["process"], span["start"]))
    return found | {
        "whole": whole,
        "seconds": end - begin,
        "workers": len(firsts),
        "busy": busy(spans, max(firsts.values()), max(span["start"] for span in spans), slots),
    }


def busy(spans: list[dict[str, float]], begin: float, end: float, slots: int) -> float:
    """The share of the slots that run trials between two moments."""
    inside = (max(0.0, min(span["end"], end) - max(span["start"], begin)) for span in spans)
    return sum(inside) / (slots * max(end - begin, 1e-9))


def alone(side: str, count: int, seconds: float, slots: int) -> dict[str, Any]:
    """One side in a process of its own, so that neither warms the other's memory."""
    run = [sys.executable, __file__, "--one", json.dumps([side, count, seconds, slots])]
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    options = record.parser(__doc__, data=False)
    options.add_argument("--one", help=argparse.SUPPRESS)
    wanted = options.parse_args()
    if wanted.one:
        print(json.dumps(measured(*json.loads(wanted.one))))
        return
    rows = []
    for count, seconds, slots, sides in QUICK if wanted.quick else CASES:
        for side in sides:
            row = {"side": side, "trials": count, "each": seconds, "slots": slots}
            row |= alone(side, count, seconds, slots)
            rows.append(row)
            above = 1000 * (row["seconds"] - count * seconds / slots) / count
            print(
                f"{count:5} x {seconds:2.0f} s on {slots:2} slots, {side:6}: {row['seconds']:6.1f} s, "
                f"{above:6.1f} ms a trial above ideal, {row['busy']:.3f} busy, {row['workers']} workers, "
                f"{row['whole']:.1f} s in all",
                flush=True,
            )
    if not wanted.quick:
        record.append("trials", {"rows": rows})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
