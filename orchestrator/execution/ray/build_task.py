"""The Ray task that builds a data set, alone or with others, and a function that builds one data set with
it."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.queue import Queue

from orchestrator.execution.faults import two_versions
from orchestrator.execution.ray.connect import Cluster, cause, cluster, device_of
from orchestrator.storage.backoff import patiently
from orchestrator.storage.stores import open_store
from poisons import CraftContext, DataSpec, Store
from poisons.base import Report
from poisons.durable import StoreError
from poisons.workers import Item, Result, Serial, Shared, Work, Workers
from trainers import InputError
from trainers.spec import plain
from trainers.stored import OBJECT

POLL_SECONDS = 0.1
Opener = Callable[[], Store]


def build_data(
    spec: DataSpec, store: Store, report: Report, *, workers: int, address: str | None = None
) -> None:
    """Build one data set, and its ancestors, with `workers` Ray tasks that share the work."""
    with cluster(address) as there:
        mail = Queue(actor_options={"num_cpus": 0})
        cpus = max(1.0, min(there.total("CPU") // workers, there.most("CPU")))
        gpus = with_gpu(workers, there, wanted=any(one.wants_gpu for one in (spec, *spec.parents)))
        opener = partial(open_store, store.where)
        ref = start_build(spec, opener, mail, cpus=cpus, gpus=gpus, workers=workers)
        ready: list[ray.ObjectRef] = []
        while not ready:
            ready, _ = ray.wait([ref], timeout=POLL_SECONDS)
            with suppress(RayError):  # progress is not essential
                for _, row in mail.get_nowait_batch(mail.qsize()):
                    if row:
                        report(row)
        try:
            ray.get(ref)
        except RayError as error:
            if not isinstance(found := cause(error), RayError):
                raise found from None
            reason = f"{type(found).__name__}: {found}".splitlines()[0]
            raise OSError(
                f"the process that built {spec.name} died ({reason}); run the same command again to resume"
            ) from None


def start_build(
    spec: DataSpec, opener: Opener, mail: Queue, *, cpus: float, gpus: int, workers: int
) -> ray.ObjectRef:
    """Submit the task; `opener` opens the store on the worker."""
    task = _build.options(name=spec.name, num_cpus=cpus, num_gpus=min(1, gpus))
    return task.remote(opener, json.dumps(plain(spec)), spec.key, mail, gpus or workers)


def with_gpu(workers: int, there: Cluster, *, wanted: bool) -> int:
    """How many of the workers get a GPU each; more would only wait for one. 0 if none is wanted."""
    return min(workers, int(there.total("GPU"))) if wanted else 0


@ray.remote(max_retries=0)
def _build(opener: Opener, spec: str, key: str, mail: Queue, workers: int) -> None:
    """Build one data set on a worker, with the help of others. If the store is full or unreachable, the
    build is retried and resumes from the last checkpoint."""
    data = DataSpec.parse(OBJECT.read(spec.encode()), "data set")
    if data.key != key:
        raise InputError(two_versions("data set", key, data.key, platform.node()))
    mine = ray.get_runtime_context().get_assigned_resources()
    several = _RayWorkers(workers, mine.get("CPU", 1), mine.get("GPU", 0)) if workers > 1 else Serial()

    def say(row: dict[str, Any]) -> None:
        with suppress(RayError):
            mail.put((data.name, row))

    say({})
    device = device_of(gpu=bool(ray.get_gpu_ids()))
    store = patiently(opener, of=StoreError)
    context = CraftContext(device=device, report=say, workers=several)
    patiently(lambda: store.ensure(data, context), of=StoreError)


class _RayWorkers(Workers):
    """This worker and others: it processes the first item itself."""

    def __init__(self, size: int, cpus: float, gpus: float) -> None:
        self.size = size
        self.task = _help.options(num_cpus=cpus, num_gpus=gpus)

    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        lent = ray.put(shared)
        refs = [self.task.remote(work, lent, item) for item in items[1:]]
        first = [work(shared, item, device) for item in items[:1]]
        return first + ray.get(refs)


@ray.remote(max_retries=3)
def _help(work: Work[Shared, Item, Result], shared: Shared, item: Item) -> Result:
    return work(shared, item, device_of(gpu=bool(ray.get_gpu_ids())))
