"""A sweep whose trainings ask for unlike shares of GPUs: run as a script, on a cluster with two GPUs that do not exist.

The scheduler, Tune and Ray are real; a training sleeps, and writes down when, and on which GPU."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray.cluster_utils import Cluster as Machines

from orchestrator.execution.context import SweepContext
from orchestrator.execution.progress import Progress
from orchestrator.execution.ray.connect import Cluster
from orchestrator.execution.ray.tune import Tuning
from orchestrator.execution.ray.worker import Shared
from orchestrator.execution.requests import Claims, Request
from orchestrator.execution.scheduler import Scheduler
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.stores import storage_of
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from tests.orchestrator.simulated_tune import By
from tests.orchestrator.sweeps import plan_of, tiny

SECONDS = 1.5  # of each training
SHARES = [1.0] * 3 + [0.5] * 3 + [0.25] * 30 + [0.0] * 3
GROWS = 7  # the index of a training that needs a whole GPU, and is first given a quarter


class Sleeping:
    """A training that writes a line when it starts, and one when it ends."""

    def __init__(self, file: Path, needs: dict[str, float]) -> None:
        self.file, self.needs = file, needs

    def __call__(self, trial: TrialSpec, store: Store, **_: Any) -> Result:
        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)
        self.write("start", trial.key, share)
        time.sleep(SECONDS)
        self.write("end", trial.key, share)
        if share < self.needs.get(trial.key, 0.0):
            raise MemoryError("CUDA out of memory")
        metrics = {"test/clean_acc": 0.5}
        done: Any = {
            "key": trial.key,
            "metrics": metrics,
            "history": [{"epoch": 1.0}],
            "seconds": SECONDS,
            "needs": [],
        }
        return Ledger(store.where).publish(trial.key, done)

    def write(self, what: str, key: str, share: float) -> None:
        gpus = [f"{ray.get_runtime_context().get_node_id()}-{gpu}" for gpu in ray.get_gpu_ids()]
        line = json.dumps({"what": what, "key": key, "share": share, "gpus": gpus, "time": time.time()})
        with self.file.open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())


@ray.remote(num_gpus=1, num_cpus=1)
def build(file: Path) -> None:
    """A builder that needs a GPU."""
    Sleeping(file, {}).write("start", "builder", 1.0)
    time.sleep(SECONDS)
    Sleeping(file, {}).write("end", "builder", 1.0)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run(plan: Plan, store: Store, folder: Path, driver: str) -> list[dict[str, Any]]:
    """Run the sweep, and submit a builder when a few trainings have ended; what was written."""
    file, keys = folder / "lines", [task.key for task in plan.tasks]
    context = SweepContext(plan, store, Observer(), Leases(storage_of(store), driver))
    progress = Progress(context)
    progress.begin(By(dict(zip(keys, SHARES, strict=True))))
    while progress.unbuilt:
        progress.data_built(progress.buildable()[0])
    built: list[ray.ObjectRef] = []

    def claims() -> Claims:
        started = any(line["key"] == "builder" for line in lines(file))
        ended = not built or bool(ray.wait(built, timeout=0)[0])
        request = () if ended else (Request(1, 1),)
        return Claims(request) if started else Claims((), request)

    there = Cluster()
    work = Sleeping(file, {keys[GROWS]: 1.0})
    with Tuning(Shared(store.where, driver, "{}", work), folder) as tuning:
        scheduler = Scheduler(context, progress, tuning, there, claims)
        end = time.monotonic() + 360
        while not progress.finished:
            if time.monotonic() > end:
                raise AssertionError(stuck(scheduler, tuning))
            scheduler.step()
            progress.poll()
            if not built and progress.to_json()["done"] >= 5:
                Sleeping(file, {}).write("submit", "builder", 1.0)
                built.append(build.remote(file))
        assert progress.to_json()["failed"] == 0
    ray.get(built)
    return lines(file)


def stuck(scheduler: Scheduler, tuning: Tuning) -> str:
    """What keeps a sweep from going on."""
    live = [
        (one.bundle.number, one.bundle.request, one.node[:6], list(one.attempts))
        for one in scheduler.live.values()
    ]
    groups = [(group["state"], group["bundles"]) for group in ray.util.placement_group_table().values()]
    return "\n".join(
        map(
            str,
            (
                scheduler.progress.to_json(),
                f"live {live}, claims {scheduler.claims()}, held {tuning.held}, more {tuning.more}",
                f"free {ray.available_resources()}",
                [group for group in groups if group[0] != "REMOVED"],
            ),
        )
    )


def check(found: list[dict[str, Any]], late: str) -> None:
    """All ran, no GPU was shared by more than it holds, and neither builder nor late request starved."""
    starts = [line for line in found if line["what"] == "start"]
    ends = {(line["key"], line["share"]): line["time"] for line in found if line["what"] == "end"}
    assert len({line["key"] for line in starts}) == len(SHARES) + 1
    for gpu in {gpu for line in starts for gpu in line["gpus"]}:
        here = [line for line in starts if gpu in line["gpus"]]
        for line in here:
            beside = [one for one in here if one["time"] <= line["time"] < ends[one["key"], one["share"]]]
            assert sum(one["share"] for one in beside) <= 1.001, (gpu, line, beside)
    (submitted,) = [line["time"] for line in found if line["what"] == "submit"]
    (began,) = [line["time"] for line in starts if line["key"] == "builder"]
    between = [line for line in starts if line["share"] and submitted + 0.5 < line["time"] < began]
    print(f"builder: waited {began - submitted:.1f} s for a GPU, {len(between)} trainings began meanwhile")
    assert not [line for line in between if line["key"] != "builder"]
    grown = [line for line in starts if line["key"] == late]
    after = [line for line in starts if line["share"] == 0.25 and line["time"] > grown[-1]["time"]]
    print(
        f"late request: shares {[line['share'] for line in grown]}, {len(after)} quarters began after the last"
    )
    assert [line["share"] for line in grown] == [0.25, 0.5, 1.0]
    assert after, "it was the last of all"


def main() -> None:
    machines = Machines(
        initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False}
    )
    machines.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=machines.address, log_to_driver=False, configure_logging=False, namespace="opsctl")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        plan = plan_of(tiny(grid={"seed": list(range(len(SHARES)))}), store)
        for spec in plan.data:
            store.ensure(spec)
        with Driver(storage_of(store), "tiny", threading.Event()) as driver:
            start = time.monotonic()
            check(run(plan, store, Path(folder), driver.id), plan.tasks[GROWS].key)
            print(f"{len(SHARES)} trainings of unlike shares in {time.monotonic() - start:.1f} s")
    ray.shutdown()
    machines.shutdown()


if __name__ == "__main__":
    main()
