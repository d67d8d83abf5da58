"""Where workers and the driver leave messages for each other: an actor that may die at any time.

A worker asks for a trial, saying which attempt it has ended last and how; the driver answers with another
only when it has heard that. So whatever is lost with the actor is said again: a worker whose question goes
unanswered asks anew, and a driver that is asked by a worker which has not ended what it was given gives the
same once more.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ASK_SECONDS = 10.0  # a question is answered within this time, if only with "not yet"
PATIENCE = 300.0  # how long a worker tries to reach a mailbox that does not answer
Message = dict[str, Any]
Answers = dict[str, Message]


class Mailbox:
    """Messages from workers, in a list until the driver takes them; answers for workers, one each."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.ends: set[int] = set()
        self.answers: Answers = {}
        self.news = asyncio.Event()
        self.answered = asyncio.Condition()

    async def ask(self, question: Message) -> Message | None:
        """A worker's question; the driver's answer, or None if there is none yet."""
        self.messages.append(question)
        self.news.set()
        worker = question["worker"]
        async with self.answered:
            try:
                await asyncio.wait_for(
                    self.answered.wait_for(lambda: worker in self.answers), timeout=ASK_SECONDS
                )
            except TimeoutError:
                return None
            return self.answers.pop(worker)

    async def say(self, attempt: int, rows: list[Message]) -> bool:
        """A worker's news of an attempt; whether the driver wants the attempt to end."""
        self.messages.append({"attempt": attempt, "rows": rows})
        self.news.set()
        return attempt in self.ends

    async def hear(self, seconds: float) -> list[Message]:
        """All messages since the last call; waits so long for one."""
        try:
            await asyncio.wait_for(self.news.wait(), timeout=seconds)
        except TimeoutError:
            return []
        self.news.clear()
        heard, self.messages = self.messages, []
        return heard

    async def answer(self, answers: Answers, ends: set[int]) -> None:
        """Answers by worker, and attempts that are to end."""
        async with self.answered:
            self.answers.update(answers)
            self.ends |= ends
            self.answered.notify_all()


def start_mailbox() -> ActorHandle:
    """A mailbox beside the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here)
    return actor(Mailbox).remote()


class Line:
    """A worker's end of it."""

    def __init__(self, mailbox: ActorHandle, told: Message) -> None:
        """`told` says who asks, with each question; on which GPU that is, is added."""
        self.mailbox, self.told = mailbox, {**told, "card": _card()}
        self._said: ray.ObjectRef | None = None

    def ask(self, ended: Message | None) -> Message | None:
        """The next thing to do, now that `ended` is; None if the mailbox is out of reach for good."""
        last = time.monotonic()
        while time.monotonic() - last < PATIENCE:
            try:
                answer = ray.get(
                    self.mailbox.ask.remote({**self.told, "ended": ended}), timeout=3 * ASK_SECONDS
                )
                last = time.monotonic()
            except (RayError, GetTimeoutError):
                time.sleep(1.0)
            else:
                if answer is not None and (ended is None or answer.get("attempt") != ended["attempt"]):
                    return answer  # an answer may come twice
        return None

    def say(self, attempt: int, rows: list[Message]) -> bool:
        """Send news without waiting; True if the answer to some earlier news was to end the attempt."""
        end = False
        if self._said is not None:
            ready, _ = ray.wait([self._said], timeout=0)
            try:
                end = bool(ready) and ray.get(ready[0])
            except RayError:
                end = False
        self._said = self.mailbox.say.remote(attempt, rows)
        return end


def _card() -> str:
    """The GPUs of this worker, told apart from those of other machines; "" if it has none."""
    cards = ",".join(map(str, ray.get_gpu_ids()))
    return f"{ray.get_runtime_context().get_node_id()}:{cards}" if cards else ""
