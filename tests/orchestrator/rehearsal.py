"""A simulated sweep: the real dispatcher and the real ledger with simulated workers and GPUs. Only the durations of
trials advance the clock."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.estimates.capacity import TINY, Claim
from orchestrator.estimates.gpus import WORKER_SECONDS
from orchestrator.estimates.packing import larger
from orchestrator.estimates.shares import Shares
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault
from orchestrator.execution.progress import Attempt, Progress
from orchestrator.execution.ray.connect import Cluster
from orchestrator.execution.ray.dispatch import Dispatcher
from orchestrator.execution.ray.messages import Answer, Ended, Message, Question
from orchestrator.execution.trial_states import State
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Task
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

RECORD = {"metrics": {"test/clean_acc": 0.5}, "history": [{"epoch": 1.0}]}
Machine = dict[str, float]


@dataclass(frozen=True)
class Start:
    """The start of a trial or builder: when, its duration in seconds, and its share of a GPU."""

    when: float
    seconds: float
    share: float


@dataclass(frozen=True)
class Place:
    """A running worker with its number, or a builder for `builds`."""

    number: int
    share: float
    cpus: float
    builds: Claim | None = None
    gpu: str = ""


class Workers:
    """Workers as the dispatcher knows them; those in `ordered` have no place yet."""

    def __init__(self) -> None:
        self.open: dict[int, float] = {}
        self.opened = self.failures = 0
        self.ordered: list[tuple[int, float]] = []

    @property
    def shares(self) -> Counter[float]:
        return Counter(self.open.values())

    def order(self, share: float) -> None:
        self.opened += 1
        self.open[self.opened] = share
        self.ordered.append((self.opened, share))

    def ended(self) -> Iterator[tuple[int, str]]:
        return iter(())


class By(Shares):
    """Shares by the key of a trial."""

    def __init__(self, shares: dict[str, float]) -> None:
        self.shares = shares

    def of(self, task: Task) -> float | None:
        return self.shares[task.key]

    def grow(self, task: Task, share: float) -> bool:
        self.shares[task.key] = larger(share)
        return True


class Rehearsal:
    """A sweep of trials, each with its seconds and share of a GPU, on `machines`. Trials whose index in `needs` has
    a larger share run out of memory after a minute."""

    def __init__(
        self,
        store: Store,
        machines: Sequence[Machine],
        trials: Sequence[tuple[float, float]],
        *,
        needs: Mapping[int, float] | None = None,
        **run: Any,
    ) -> None:
        plan = plan_of(tiny(grid={"seed": list(range(len(trials)))}, run=run), store)
        keys = [task.key for task in plan.tasks]
        self.now = 0.0
        self.seconds = {key: seconds for key, (seconds, _) in zip(keys, trials, strict=True)}
        self.needs = {keys[i]: share for i, share in (needs or {}).items()}
        leases = Leases(Ledger(store.where).storage, "one")
        context = SweepContext(plan, store, Observer(), leases, now=lambda: self.now)
        self.progress = Progress(context, seconds=self.seconds)
        self.progress.begin(By({key: share for key, (_, share) in zip(keys, trials, strict=True)}))
        while self.progress.unbuilt:
            self.progress.data_built(self.progress.buildable()[0])
        self.workers, self.claims = Workers(), list[Claim]()
        there = Cluster(coming=tuple(machines))
        self.dispatcher = Dispatcher(context, self.progress, self, self.workers, None, there)  # type: ignore[arg-type]
        self.free = {f"GPU {i}": 1.0 for i in range(sum(int(m.get("GPU", 0)) for m in machines))}
        self.cpus = sum(machine["CPU"] for machine in machines)
        self.on: dict[str, Place] = {}  # what runs, by its name
        self.waiting: list[tuple[Claim, float]] = []  # builders without a place, and how long they take
        self.started: list[Start] = []
        self._events: list[tuple[float, int, str, int | None]] = []
        self._ties = itertools.count()

    def claim(self, claim: Claim, seconds: float) -> None:
        """Submit a builder."""
        self.claims.append(claim)
        self.waiting.append((claim, seconds))

    def play(self, until: float = math.inf) -> float:
        """Run to the end, or until some moment; the time then."""
        self._settle([])
        while not self.progress.finished and self._next <= until:
            self.now, _, name, attempt = heapq.heappop(self._events)
            self._settle(self._said(name, attempt))
            assert self.workers.opened < 1000, "workers start and end for ever"
        self.now = min(until, self.now) if self.progress.finished else until
        return self.now

    def record(self, number: int) -> dict[str, Any]:
        """The record that a worker sends of a successful attempt."""
        return {"key": self._attempt(number).task.key, **RECORD}

    def _attempt(self, number: int) -> Attempt:
        (found,) = (attempt for attempt in self.progress.running if attempt.number == number)
        return found

    @property
    def _next(self) -> float:
        """The time of the next event."""
        if not self._events:
            raise AssertionError("nothing runs and nothing is scheduled")
        return self._events[0][0]

    def _said(self, name: str, number: int | None) -> list[Message]:
        """The messages to the driver when something has ended or a worker has started."""
        place = self.on[name]
        if place.builds is not None:
            self._leave(name)
            self.claims.remove(place.builds)
            return []
        ended: Ended | None = None
        if number is not None:
            attempt = self._attempt(number)
            ended = {"attempt": number, "record": self.record(number)}
            if attempt.share < self.needs.get(attempt.task.key, 0.0):
                ended = {"attempt": number, "fault": Fault("memory", "out of memory").to_json()}
        return [
            Question(
                worker=name,
                number=place.number,
                share=place.share,
                node="",
                card=place.gpu,
                ended=ended,
            )
        ]

    def _settle(self, messages: list[Message]) -> None:
        """Deliver messages to the driver and let it act until nothing changes."""
        dispatcher = self.dispatcher
        for _ in range(100):
            self.progress.poll()
            dispatcher._take(messages)
            answers, dispatcher._answers, messages = dispatcher._answers, {}, []
            for worker, answer in answers.items():
                self._answered(worker, answer)
            dispatcher.adjust()
            if not self._fill() and not answers and not self.progress.trials(State.PAUSED):
                return
        raise AssertionError("workers start and end for ever")

    def _answered(self, worker: str, answer: Answer) -> None:
        if "end" in answer:
            self._leave(worker)
            return
        attempt = self._attempt(answer["attempt"])
        key, share = attempt.task.key, attempt.share
        self.started.append(Start(self.now, self.seconds[key], share))
        self._at(60.0 if share < self.needs.get(key, 0.0) else self.seconds[key], worker, attempt.number)

    def _fill(self) -> bool:
        """Start what fits, each on the emptiest GPU, which is the worst case; whether anything started."""
        cpus, before = self.dispatcher.places.cpus, len(self.on)
        for claim, seconds in list(self.waiting):
            if self._enter(f"builder {self.now}", Place(0, claim.gpus, claim.cpus, claim), seconds):
                self.waiting.remove((claim, seconds))
                self.started.append(Start(self.now, seconds, claim.gpus))
        for number, share in list(self.workers.ordered):
            if self._enter(f"worker {number}", Place(number, share, cpus), WORKER_SECONDS):
                self.workers.ordered.remove((number, share))
        return len(self.on) > before

    def _enter(self, name: str, place: Place, seconds: float) -> bool:
        gpu = max(self.free, key=self.free.__getitem__, default="")
        if self.cpus + TINY < place.cpus or (place.share and self.free[gpu] + TINY < place.share):
            return False
        self.on[name] = replace(place, gpu=gpu if place.share else "")
        self._take(self.on[name], 1)
        self._at(seconds, name, None)
        return True

    def _leave(self, name: str) -> None:
        self._take(self.on.pop(name), -1)

    def _take(self, place: Place, times: int) -> None:
        self.cpus -= times * place.cpus
        if place.gpu:
            self.free[place.gpu] -= times * place.share

    def _at(self, seconds: float, name: str, attempt: int | None) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ties), name, attempt))
