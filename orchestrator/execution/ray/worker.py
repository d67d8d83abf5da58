"""A worker: a process that runs one trial after another. To Tune it is one long trial.

So the cost of starting Python, importing torch, creating a CUDA context and opening data sets is paid once.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from orchestrator.execution.faults import fault, two_versions
from orchestrator.execution.ray.connect import device_of
from orchestrator.execution.ray.mailbox import MailboxClient, gpu_id
from orchestrator.execution.ray.messages import Ended, Order, WorkerId
from orchestrator.planning.probes import PlannedProbe
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.backoff import patiently
from orchestrator.storage.records import Result
from orchestrator.storage.stores import open_driven
from orchestrator.storage.trial_spec import TrialSpec
from poisons import CraftContext, DataSpec, Store
from trainers import Images, InputError
from trainers.families import Metrics
from trainers.stored import OBJECT, VALUE

REPORT_SECONDS = 0.5  # a trial's epochs reach the driver in batches, at most this often
MAX_OPEN = 8  # data sets that a worker keeps open
Work = Callable[..., Result]  # orchestrator.execution.trial.run_trial, or a benchmark's substitute


class Stopped(BaseException):
    """Raised inside a training to end it."""


@dataclass(frozen=True)
class Shared:
    """What all workers of a sweep share: the mailbox, the store and its driver, and how trials are run."""

    mailbox: ActorHandle
    store: str
    driver: str  # the id of its heartbeat in that store
    run: str  # a RunSpec, as JSON
    work: Work


def worker(config: dict[str, Any], shared: Shared) -> None:
    """Ask for trials and run them until the driver has no more."""
    share = float(config["share"])
    node = ray.get_runtime_context().get_node_id()
    who = WorkerId(
        worker=secrets.token_hex(8), number=config["number"], share=share, node=node, card=gpu_id()
    )
    mailbox = MailboxClient(shared.mailbox, who)
    worker_state = Worker(shared, share, mailbox)
    ended: Ended | None = None
    while (order := mailbox.ask(ended)) is not None and "trial" in order:
        ended = worker_state.carry_out(order)
        if ended.get("poisoned"):
            mailbox.ask(ended)  # only reports the outcome: a new process takes the next order
            os._exit(1)


class Worker:
    """The state of a worker: the store with its open data sets, the device, the mailbox.

    Store and device are opened with the first order, so that an error there becomes the outcome of the order.
    """

    def __init__(self, shared: Shared, share: float, mailbox: MailboxClient) -> None:
        self.shared, self.share, self.mailbox = shared, share, mailbox
        self.run = RunSpec.parse(OBJECT.read(shared.run.encode()), "run")
        self.open: OrderedDict[str, Images] = OrderedDict()

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

    def carry_out(self, order: Order) -> Ended:
        """Run the trial of an order. Returns how it ended."""
        number = order["attempt"]
        report = _Reporter(self.mailbox, number)
        try:
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
            record = self.shared.work(trial, store, **options)
        except Stopped:
            return {"attempt": number, "stopped": True, "rows": report.rows}
        except Exception as error:  # noqa: BLE001  (any exception is the outcome of the trial)
            found = fault(error)
            return {"attempt": number, "fault": found.to_json(), "poisoned": found.poisoned}
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # other processes may share the GPU
        return {"attempt": number, "record": record}

    def images(self, spec: DataSpec) -> Images:
        """A data set, kept open. It is opened if need be, and built if it is missing."""
        if spec.name not in self.open:
            self.open[spec.name] = self.store.ensure(spec, CraftContext(device=self.device))
        self.open.move_to_end(spec.name)
        while len(self.open) > MAX_OPEN:
            self.open.popitem(last=False)
        return self.open[spec.name]


class _Reporter:
    """Reports a trial's epochs in batches. Raises Stopped when the trial is to end."""

    def __init__(self, mailbox: MailboxClient, attempt: int) -> None:
        self.mailbox, self.attempt = mailbox, attempt
        self.rows: list[Metrics] = []
        self.last = time.monotonic()

    def __call__(self, row: Metrics) -> None:
        self.rows.append(row)
        if time.monotonic() - self.last >= REPORT_SECONDS:
            rows, self.rows, self.last = self.rows, [], time.monotonic()
            if self.mailbox.report(self.attempt, rows):
                raise Stopped
