"""The dispatcher: answers workers that ask for trials."""

from __future__ import annotations

import json
import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from orchestrator.estimates.capacity import Claim
from orchestrator.estimates.gpus import Tenant
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault, died, is_out_of_memory, killed_for_memory
from orchestrator.execution.node_health import Nodes
from orchestrator.execution.pressure import Pressure
from orchestrator.execution.progress import Attempt, Progress
from orchestrator.execution.ray.builders import Builders
from orchestrator.execution.ray.connect import Cluster
from orchestrator.execution.ray.messages import Answers, Ended, Message, Order, Question
from orchestrator.execution.ray.placement import Places
from orchestrator.execution.ray.profiling import Probes
from orchestrator.execution.ray.tune import Workers
from orchestrator.storage.records import DriverState
from trainers.spec import plain

RECEIVE_SECONDS = 0.1  # how long the driver waits for a message
IDLE_SECONDS = 20.0  # an idle worker ends after this and releases its GPU
STARVED_SECONDS = 600.0  # if every worker is killed for memory at its start for this long, the sweep fails
DEATHS = 8  # workers in a row that may die before their first request


@dataclass
class WorkerProcess:
    """The driver's view of a worker's process."""

    number: int
    share: float
    card: str = ""  # the id of its GPU
    node: str = ""  # the id of its machine
    attempt: Attempt | None = None
    until: float = 0.0  # when the attempt is expected to end
    idle: float | None = field(default_factory=time.monotonic)  # when it began to wait for an answer

    @property
    def tenant(self) -> Tenant:
        return Tenant(self.card, self.share, self.until if self.attempt is not None else 0.0)


class Dispatcher:
    """Connects workers with progress. All calls come from one thread."""

    def __init__(
        self,
        context: SweepContext,
        progress: Progress,
        builders: Builders,
        workers: Workers,
        mailbox: ActorHandle,
        there: Cluster,
        probes: Probes | None = None,
        kept: Set[str] = frozenset(),
        pressure: Pressure | None = None,
    ) -> None:
        """`kept` has the keys of the trials that keep their weights; `pressure` is shared with the
        builders."""
        self.context, self.progress, self.builders = context, progress, builders
        self.workers, self.mailbox = workers, mailbox
        self.nodes = Nodes()
        self.probes, self.kept = probes, kept
        self.pressure = pressure or Pressure()
        self.places = Places(context, progress, workers, there, self._claims, self._memory)
        self.processes: dict[str, WorkerProcess] = {}
        self.deaths = 0
        self.starved: float | None = None  # when workers began to be killed for memory at their start
        self.slots = 0
        self._ends: set[int] = set()
        self._answers: Answers = {}

    def step(self) -> None:
        """Process the messages of workers, and answer those that can be answered. Waits briefly if there
        are none."""
        self._take(self._receive())
        self._send()

    def adjust(self) -> None:
        """Start workers where trials wait and there is room, or machines will join. To be called every few
        seconds."""
        self.progress.keep_ahead(len(self.workers.open) + 1)
        self.places.open(self._tenants())
        self.slots = self.places.slots()

    def to_json(self) -> DriverState:
        """Its part of the heartbeat."""
        return {"building": self.builders.to_json(), "slots": self.slots, "resting": self.nodes.resting}

    def dismiss(self) -> None:
        """End all workers that are waiting for a trial."""
        for worker in [worker for worker, process in self.processes.items() if process.attempt is None]:
            self._end(worker)
        self._send()

    def _receive(self) -> list[Message]:
        try:
            return list(ray.get(self.mailbox.receive.remote(RECEIVE_SECONDS)))
        except RayError:  # the mailbox died and is restarted; workers repeat their requests
            time.sleep(RECEIVE_SECONDS)
            return []

    def _take(self, messages: list[Message]) -> None:
        """Process messages, and prepare answers for waiting workers."""
        for message in messages:
            if "worker" in message:
                self._asked(message)
            elif self.progress.reported(message["attempt"], message["rows"]):
                self._ends.add(message["attempt"])
        for number, why in self.workers.ended():
            self._worker_died(number, why)
        for worker, process in list(self.processes.items()):
            if process.idle is not None and process.attempt is None and worker not in self._answers:
                self._serve(worker, process)

    def _send(self) -> None:
        if not self._answers and not self._ends:
            return
        with suppress(RayError):  # workers repeat requests whose answers are lost
            ray.get(self.mailbox.answer.remote(self._answers, self._ends))
        self._answers, self._ends = {}, set()

    def _asked(self, question: Question) -> None:
        """A worker asks for a trial, and may report how its last attempt ended."""
        worker, ended = question["worker"], question["ended"]
        if question["number"] not in self.workers.open:
            self._answers[worker] = {"end": True}  # it was dismissed, and has not received that answer yet
            return
        if worker not in self.processes:
            self._worker_died(question["number"], "")  # this process replaces one that died
            share, card, node = question["share"], question["card"], question["node"]
            self.processes[worker] = WorkerProcess(question["number"], share, card, node)
        process = self.processes[worker]
        self.deaths, self.workers.failures, self.starved = 0, 0, None
        if ended is not None and process.attempt is not None and process.attempt.number == ended["attempt"]:
            attempt, process.attempt, process.idle = process.attempt, None, time.monotonic()
            self._attempt_ended(process, attempt, ended)
        if ended is not None and ended.get("poisoned"):
            self._end(worker)
        elif process.attempt is not None:
            self._answers[worker] = self._order(process.attempt)  # the answer was lost
        elif process.idle is None:
            process.idle = time.monotonic()

    def _attempt_ended(self, process: WorkerProcess, attempt: Attempt, ended: Ended) -> None:
        if "fault" in ended:
            self._failed(process, attempt, Fault.from_json(ended["fault"]))
            return
        self.nodes.worked(process.node)
        if "record" in ended:
            self.progress.ended(attempt.number, ended["record"])
        else:
            self.progress.reported(attempt.number, ended["rows"])
            self.progress.attempt_pruned(attempt.number)

    def _failed(self, process: WorkerProcess, attempt: Attempt, fault: Fault) -> None:
        if fault.kind == "machine":
            self.nodes.failed(process.node, attempt.task.key)
        self.progress.attempt_failed(attempt.number, fault)

    def _offered(self, process: WorkerProcess) -> Attempt | None:
        """A trial for a waiting worker, unless its machine is resting."""
        if self.nodes.rests(process.node):
            return None
        others = (other.node for other in self.processes.values() if not self.nodes.rests(other.node))
        return self.progress.offer(process.share, self.nodes.barred(process.node, others))

    def _serve(self, worker: str, process: WorkerProcess) -> None:
        """Give a waiting worker a trial, or end it if others need its resources more."""
        if self._displaced(process):
            self._dismiss(worker)
        elif (attempt := self._offered(process)) is not None:
            process.attempt, process.idle = attempt, None
            process.until = self.context.now() + self.progress.expected_seconds(attempt.task.key)
            self._answers[worker] = self._order(attempt)
        elif self._useless(process):
            self._dismiss(worker)

    def _displaced(self, process: WorkerProcess) -> bool:
        """Whether a worker that could start its next trial should end instead, to free memory, processors
        or a GPU."""
        if len(self.workers.open) > self.places.most or self.places.crowded(len(self.processes)):
            return True
        return self.places.awaited(process.tenant, self._tenants())

    def _useless(self, process: WorkerProcess) -> bool:
        """Whether an idle worker only blocks resources. Where its machine is resting, a new one would only
        take its place."""
        waits = time.monotonic() - (process.idle or time.monotonic())
        idle = waits > IDLE_SECONDS and not self.nodes.rests(process.node)
        return idle or self.places.outdone(process.share, self._tenants())

    def _tenants(self) -> list[Tenant]:
        return [process.tenant for process in self.processes.values() if process.share]

    def _claims(self) -> list[Claim]:
        """What takes precedence over workers."""
        return [*self.builders.claims, *(self.probes.claims if self.probes is not None else ())]

    def _dismiss(self, worker: str) -> None:
        """End a worker, and count on its resources from now on."""
        self.workers.open.pop(self.processes[worker].number, None)
        self._end(worker)

    def _end(self, worker: str) -> None:
        self._answers[worker] = {"end": True}
        process = self.processes.pop(worker)
        if process.attempt is not None:
            self._failed(process, process.attempt, died("its process was ended"))

    def _worker_died(self, number: int, why: str) -> None:
        """The process of a worker died; its trial is retried."""
        known = [worker for worker, process in self.processes.items() if process.number == number]
        if why and not known:  # workers that had started may die together, with their machine
            self._died_at_start(why)
        for worker in known:
            process = self.processes.pop(worker)
            if process.attempt is not None:
                self._failed(process, process.attempt, self._death(process.attempt, why))

    def _died_at_start(self, why: str) -> None:
        """A worker died before it asked for anything. OSError if none can be started: all of them die, or
        there has not been enough memory for one for a while and no worker is running whose end would free
        some."""
        if is_out_of_memory(why):
            self.pressure.note("a worker that starts", len(self.workers.open) + len(self.builders.claims))
            self.starved = self.starved or time.monotonic()
            if not self.progress.running and time.monotonic() - self.starved > STARVED_SECONDS:
                raise OSError(f"memory does not suffice to start a worker: {why}")
        elif not self.workers.failures:  # deaths caused by a failure of Tune are counted in `failures`
            self.deaths += 1
            if self.deaths > max(DEATHS, 2 * len(self.workers.open)):
                raise OSError(f"workers die as they start: {why}")

    def _death(self, attempt: Attempt, why: str) -> Fault:
        """The fault of an attempt whose process died."""
        if not is_out_of_memory(why):
            return died(why or "it was started again")
        fewer = self.pressure.note(attempt.task.key, len(self.progress.running) + len(self.builders.claims))
        return killed_for_memory(self.pressure.most if fewer else None)

    def _memory(self) -> float:
        """How many workers there is memory for, beside the builders."""
        return max(0.0, self.pressure.most - len(self.builders.claims))

    def _order(self, attempt: Attempt) -> Order:
        task = attempt.task
        order = Order(
            attempt=attempt.number,
            key=task.key,
            trial=json.dumps(plain(task.trial)),
            keep=task.key in self.kept,
        )
        if task.probes:
            order["probes"] = json.dumps([planned.to_json() for planned in task.probes])
        return order
