"""A training in a process that ran others before gives the bits of one in a new process, and leaves no memory behind."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from orchestrator.execution.messages import Order
from orchestrator.execution.ray.worker import Reporter, Shared, Worker
from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.locations import open_storage
from poisons import Store
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny
from trainers.spec import plain


@pytest.fixture
def driver(store: Store) -> Iterator[str]:
    with Driver(open_storage(store.where), "sweep", threading.Event()) as driver:
        yield driver.id


def made(store: Store, **changes: Any) -> Plan:
    """A plan whose data sets are built."""
    plan = plan_of(tiny(**changes), store)
    for spec in plan.data:
        store.ensure(spec)
    return plan


def order(task: Task, attempt: int = 1) -> Order:
    return Order(attempt=attempt, key=task.key, trial=json.dumps(plain(task.trial)), keep=False)


class Silent(Reporter):
    """Reports to nobody."""

    def send(self) -> None:
        self.messages.clear()


def worker_on(where: str, driver: str) -> Worker:
    """A worker with a device that Ray did not give it."""
    worker = Worker(Shared(where, driver, "{}", run_trial), 0.0)
    vars(worker)["device"] = torch.device("cpu")
    return worker


def numbers(ended: Any) -> dict[str, Any]:
    """What must be equal: everything that was computed."""
    return {"metrics": ended["record"]["metrics"], "history": [
        {name: value for name, value in row.items() if "seconds" not in name and "per_second" not in name}
        for row in ended["record"]["history"]
    ]}  # fmt: skip


ALONE = """
import json, sys
from tests.orchestrator.execution.ray.test_warm_worker import Silent, numbers, worker_on
store, driver, order = json.loads(sys.argv[1])
ended, _ = worker_on(store, driver).carry_out(order, Silent())
print(json.dumps(numbers(ended)))
"""


def alone(where: str, driver: str, order: Order) -> dict[str, Any]:
    """The numbers of a training in a process of its own."""
    run = [sys.executable, "-c", ALONE, json.dumps([where, driver, order])]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def disturb() -> None:
    """Leave behind what a plug-in might."""
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.set_grad_enabled(False)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


@pytest.mark.slow
def test_warm_and_isolated_trainings_are_bit_equal(store: Store, driver: str) -> None:
    train = TRAIN | {"augmentations": ["flip_crop"], "defense": {"kind": "pgd_at", "steps": 2}}
    plan = made(store, base={**tiny()["base"], "train": train})
    tasks = plan.tasks[:2]
    expected = [alone(store.where, driver, order(task)) for task in tasks]
    for task in tasks:  # they are trained again
        for file in (store.root / "trials" / task.key).iterdir():
            file.unlink()
    worker = worker_on(store.where, driver)
    found = []
    for task in (plan.tasks[2], *tasks):
        ended, poisoned = worker.carry_out(order(task), Silent())
        found.append(numbers(ended))
        assert not poisoned
        disturb()
    assert found[1:] == expected
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


@pytest.mark.proof
def test_memory_does_not_grow_over_200_trainings_in_one_process(store: Store, driver: str) -> None:
    plan = made(
        store, grid={"seed": list(range(200))}, base={**tiny()["base"], "train": TRAIN | {"epochs": 1}}
    )
    worker = worker_on(store.where, driver)
    used = []
    for attempt, task in enumerate(plan.tasks):
        ended, _ = worker.carry_out(order(task, attempt), Silent())
        assert "record" in ended
        used.append(psutil.Process().memory_info().rss)
    assert max(used[150:]) - max(used[20:50]) < 10e6, [used[i] // 10**6 for i in range(0, 200, 20)]
