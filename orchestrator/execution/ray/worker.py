"""A Tune trial: a worker runs the trainings of a bundle, one after another.

Tune gives the same process one bundle after another (`reuse_actors`). So the cost of starting Python,
importing torch, creating a CUDA context and opening data sets is paid once.
"""

from __future__ import annotations

import os
import platform
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
import torch
from ray import tune

from orchestrator.execution.bundles import Bundle
from orchestrator.execution.faults import fault, two_versions
from orchestrator.execution.messages import Ended, Message, Order
from orchestrator.execution.ray.connect import device_of
from orchestrator.planning.probes import PlannedProbe
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.backoff import patiently
from orchestrator.storage.records import Result
from orchestrator.storage.stores import open_driven
from orchestrator.storage.trial_spec import TrialSpec
from poisons import CraftContext, DataSpec, Store
from trainers import Images, InputError
from trainers.families import Metrics
from trainers.process_state import reset_process_state
from trainers.stored import OBJECT, VALUE

REPORT_SECONDS = 0.5  # messages reach the driver in batches, at most this often
MAX_OPEN = 8  # data sets that a worker keeps open
Work = Callable[..., Result]  # orchestrator.execution.trial.run_trial, or a benchmark's substitute


@dataclass(frozen=True)
class Shared:
    """What all workers of a sweep share: the store and its driver, and how trials are run."""

    store: str
    driver: str  # the id of its heartbeat in that store
    run: str  # a RunSpec, as JSON
    work: Work


def train(config: dict[str, Any], shared: Shared) -> None:
    """Run a bundle. Tune may end it at any report."""
    bundle: Bundle = config["bundle"]
    node = ray.get_runtime_context().get_node_id()
    reporter = Reporter()
    rest = bundle.rest(node)
    reporter.add({"node": node, "rests": rest > 0}, now=True)
    if rest > 0:
        time.sleep(rest)  # an ended worker would be replaced by another on this machine
        return
    worker = worker_of(shared, bundle.request.gpus)
    for order in bundle.orders:
        # the first epoch may take long, and a builder may wait for the GPU
        now = order is bundle.orders[0] or bundle.request.gpus > 0
        reporter.add({"started": order["attempt"]}, now=now)
        ended, poisoned = worker.carry_out(order, reporter)
        try:
            reporter.add(ended, now=poisoned)
        finally:  # whatever Tune answers
            if poisoned:
                os._exit(1)
    reporter.send()


def worker_of(shared: Shared, share: float) -> Worker:
    """The worker of this process, which survives from bundle to bundle. Its share never changes: Tune gives
    a process only bundles with equal resources."""
    if shared.driver not in WORKERS:
        WORKERS[shared.driver] = Worker(shared, share)
    return WORKERS[shared.driver]


WORKERS: dict[str, Worker] = {}  # of this process, by driver


class Worker:
    """The settings, the store with its open data sets, and the device.

    They are opened with the first order, so that an error there becomes the outcome of the order.
    """

    def __init__(self, shared: Shared, share: float) -> None:
        self.shared, self.share = shared, share
        self.open: OrderedDict[str, Images] = OrderedDict()

    @cached_property
    def run(self) -> RunSpec:
        return RunSpec.parse(OBJECT.read(self.shared.run.encode()), "run")

    @cached_property
    def store(self) -> Store:
        return patiently(lambda: open_driven(self.shared.store, self.shared.driver))

    @cached_property
    def device(self) -> torch.device:
        device = device_of(gpu=self.share > 0)
        if device.type == "cuda" and self.share < 1:
            torch.cuda.set_per_process_memory_fraction(
                self.share
            )  # running out of its share fails this trial only
        return device

    def carry_out(self, order: Order, reporter: Reporter) -> tuple[Ended, bool]:
        """Run the trial of an order. Returns how it ended, and whether this process must not be used
        again."""
        number, start = order["attempt"], time.monotonic()
        reset_process_state()
        try:
            record = self._result(order, lambda row: reporter.epoch(number, row))
        except Exception as error:  # noqa: BLE001  (any exception is the outcome of the trial)
            found = fault(error)
            seconds = time.monotonic() - start
            return {"ended": number, "seconds": seconds, "fault": found.to_json()}, found.poisoned
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # other processes may share the GPU
        return {"ended": number, "seconds": time.monotonic() - start, "record": record}, False

    def _result(self, order: Order, report: Callable[[Metrics], None]) -> Result:
        trial = TrialSpec.parse(OBJECT.read(order["trial"].encode()), "trial")
        if trial.key != order["key"]:
            raise InputError(two_versions("trial", order["key"], trial.key, platform.node()))
        store, device = self.store, self.device
        run = self.run.with_kept_weights(keep=order["keep"])
        options: dict[str, Any] = {"device": device, "report": report, "run": run, "images": self.images}
        if "probes" in order:
            options["probes"] = [
                PlannedProbe.from_json(planned) for planned in VALUE.read(order["probes"].encode())
            ]
        return self.shared.work(trial, store, **options)

    def images(self, spec: DataSpec) -> Images:
        """A data set, kept open. It is opened if need be, and built if it is missing."""
        if spec.name not in self.open:
            self.open[spec.name] = self.store.ensure(spec, CraftContext(device=self.device))
        self.open.move_to_end(spec.name)
        while len(self.open) > MAX_OPEN:
            self.open.popitem(last=False)
        return self.open[spec.name]


class Reporter:
    """Reports messages to Tune in batches, with the last epoch as Tune's metrics. A report ends the thread
    of the bundle if Tune stops its trial."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.row: Metrics = {}
        self.last = time.monotonic()

    def epoch(self, attempt: int, row: Metrics) -> None:
        """An epoch of an attempt has ended."""
        self.row = row
        last = self.messages[-1] if self.messages else None
        if last is not None and "rows" in last and last["attempt"] == attempt:
            last["rows"].append(row)
            self._send_if_due()
        else:
            self.add({"attempt": attempt, "rows": [row]})

    def add(self, message: Message, *, now: bool = False) -> None:
        """Report a message soon, or now."""
        self.messages.append(message)
        if now:
            self.send()
        else:
            self._send_if_due()

    def send(self) -> None:
        """Report all messages now."""
        messages, self.messages = self.messages, []
        tune.report({**self.row, "messages": messages})
        self.last = time.monotonic()

    def _send_if_due(self) -> None:
        if time.monotonic() - self.last >= REPORT_SECONDS:
            self.send()
