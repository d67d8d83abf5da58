"""The mailbox through which workers and the driver exchange messages: an actor that may die at any time.

A worker asks for a trial, and reports with its question which attempt it ended last, and how. The driver
answers only after it has received that. So messages that are lost with the actor are sent again: a worker
repeats a question that is not answered, and the driver repeats an order for a worker that asks without having
ended it. Epochs that a worker reports on the way are sent once, and can be lost.
"""

from __future__ import annotations

import asyncio
import time

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.execution.ray.messages import Answer, Answers, Ended, Message, Question, WorkerId
from trainers.families import Metrics

ASK_SECONDS = 10.0  # a question is answered within this time, with None if there is no order yet
PATIENCE_SECONDS = 300.0  # how long a worker tries to reach a mailbox that does not answer


class Mailbox:
    """Messages from workers, kept until the driver takes them, and one answer for each worker."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ends: set[int] = set()
        self.answers: Answers = {}
        self.arrived = asyncio.Event()
        self.answered = asyncio.Condition()

    async def ask(self, question: Question) -> Answer | None:
        """A worker's question; the driver's answer, or None if there is none yet."""
        self.messages.append(question)
        self.arrived.set()
        worker = question["worker"]
        async with self.answered:
            try:
                await asyncio.wait_for(
                    self.answered.wait_for(lambda: worker in self.answers), timeout=ASK_SECONDS
                )
            except TimeoutError:
                return None
            return self.answers.pop(worker)

    async def report(self, attempt: int, rows: list[Metrics]) -> bool:
        """A worker reports epochs of an attempt. Returns whether the attempt is to end."""
        self.messages.append({"attempt": attempt, "rows": rows})
        self.arrived.set()
        return attempt in self.ends

    async def receive(self, seconds: float) -> list[Message]:
        """All messages since the last call; waits up to `seconds` for the first."""
        try:
            await asyncio.wait_for(self.arrived.wait(), timeout=seconds)
        except TimeoutError:
            return []
        self.arrived.clear()
        received, self.messages = self.messages, []
        return received

    async def answer(self, answers: Answers, ends: set[int]) -> None:
        """Leave answers for workers, and the numbers of attempts that are to end."""
        async with self.answered:
            self.answers.update(answers)
            self.ends |= ends
            self.answered.notify_all()


def start_mailbox() -> ActorHandle:
    """Start a mailbox on the node of the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here)
    return actor(Mailbox).remote()


class MailboxClient:
    """A worker's connection to the mailbox."""

    def __init__(self, mailbox: ActorHandle, worker: WorkerId) -> None:
        """`worker` identifies the worker in each question."""
        self.mailbox, self.worker = mailbox, worker
        self._reported: ray.ObjectRef | None = None

    def ask(self, ended: Ended | None) -> Answer | None:
        """The next order, now that an attempt has `ended`; None if the mailbox stays unreachable."""
        last = time.monotonic()
        while time.monotonic() - last < PATIENCE_SECONDS:
            try:
                question = Question(**self.worker, ended=ended)
                answer = ray.get(self.mailbox.ask.remote(question), timeout=3 * ASK_SECONDS)
                last = time.monotonic()
            except (RayError, GetTimeoutError):
                time.sleep(1.0)
            else:
                if answer is not None and (ended is None or answer.get("attempt") != ended["attempt"]):
                    return answer  # not one to an earlier question, which may arrive twice
        return None

    def report(self, attempt: int, rows: list[Metrics]) -> bool:
        """Report epochs without waiting. True if an earlier report was answered with the end of the
        attempt."""
        end = False
        if self._reported is not None:
            ready, _ = ray.wait([self._reported], timeout=0)
            try:
                end = bool(ready) and ray.get(ready[0])
            except RayError:
                end = False
        self._reported = self.mailbox.report.remote(attempt, rows)
        return end


def gpu_id() -> str:
    """An id of the GPUs of this worker that is unique in the cluster; "" if it has none."""
    cards = ",".join(map(str, ray.get_gpu_ids()))
    return f"{ray.get_runtime_context().get_node_id()}:{cards}" if cards else ""
