"""A simulated sweep: the real scheduler and the real ledger, with Tune, Ray, workers and GPUs simulated. Only the
durations of trainings advance the clock.

It follows Tune 2.60: a worker that becomes free takes over a trial with equal resources that waits, even if another
worker starts for it; else it ends, unless it is the only idle one and more trials are expected.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.estimates.packing import larger
from orchestrator.estimates.shares import Shares
from orchestrator.execution.bundles import Bundle
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault
from orchestrator.execution.messages import Ended
from orchestrator.execution.pace import Pace
from orchestrator.execution.progress import Progress
from orchestrator.execution.requests import TINY, Capacity, Claims, Request
from orchestrator.execution.scheduler import Event, Over, Reported, Scheduler, holds, holds_gpu
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Task
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

RECORD = {"metrics": {"test/clean_acc": 0.5}, "history": [{"epoch": 1.0}]}
START_SECONDS = 10.0  # until a new worker begins its bundle
Machine = tuple[float, int]  # processors and GPUs


@dataclass(frozen=True)
class Start:
    """The start of a training or a builder: when, its duration in seconds, and its share of a GPU."""

    when: float
    seconds: float
    share: float


@dataclass(eq=False)
class Place:
    """What a process holds: resources, and the index of its GPU."""

    request: Request
    gpu: int | None
    bundle: Bundle | None = None  # that it runs, or starts for
    begun: bool = False
    dead: bool = False


class By(Shares):
    """Shares by the key of a trial."""

    def __init__(self, shares: dict[str, float]) -> None:
        self.shares = shares

    def of(self, task: Task) -> float | None:
        return self.shares[task.key]

    def grow(self, task: Task, share: float) -> bool:
        self.shares[task.key] = larger(share)
        return True


class SimulatedTune:
    """Tune and Ray on machines, all of whose processors are interchangeable."""

    def __init__(
        self, machines: Sequence[Machine], seconds: Callable[[str, float], tuple[float, bool]]
    ) -> None:
        """`seconds` gives the duration of a training with a share of a GPU, and whether it runs out of memory."""
        self.failures, self.stopping, self.withdrawn = 0, set[int](), set[int]()
        self.held, self.more = frozenset[str](), False
        self.seconds = seconds
        self.now = 0.0
        self.cpus = sum(cpus for cpus, _ in machines)
        self.gpus = [1.0] * sum(gpus for _, gpus in machines)
        self.staged: list[Bundle] = []  # trials that have not begun, in their order
        self.workers: list[Place] = []
        self.idle: Place | None = None
        self.builders: list[tuple[Request, float]] = []  # those that wait
        self.claims: list[Request] = []  # of builders that run
        self.started: list[Start] = []
        self.opened = 0  # workers that began
        self.heard: list[Event] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()

    def suggest(self, bundle: Bundle) -> None:
        self.staged.append(bundle)

    def events(self) -> Iterator[Event]:
        heard, self.heard = self.heard, []
        yield from heard

    def build(self, request: Request, seconds: float) -> None:
        """Submit a builder."""
        self.builders.append((request, seconds))

    def advance(self) -> bool:
        """Go on to the next moment at which something happens; False if there is none."""
        if not self._events:
            return False
        self.now, _, happen = heapq.heappop(self._events)
        happen()
        return True

    def settle(self) -> None:
        """Let idle workers go or work, and start what fits."""
        if self.idle is not None:
            worker, self.idle = self.idle, None
            self._free(worker)
        for request, seconds in list(self.builders):
            if (place := self._placed(request)) is not None:
                self.builders.remove((request, seconds))
                self.claims.append(request)
                self.started.append(Start(self.now, seconds, request.gpus))
                self._at(seconds, lambda place=place, request=request: self._built(place, request))  # type: ignore[misc]
        starting = {worker.bundle.number for worker in self.workers if worker.bundle and not worker.begun}
        for bundle in self.staged:
            if bundle.number not in starting and (place := self._placed(bundle.request)) is not None:
                place.bundle = bundle
                self.workers.append(place)
                self._at(START_SECONDS, lambda place=place: self._begin(place))  # type: ignore[misc]

    def _begin(self, worker: Place) -> None:
        """A worker begins its bundle, unless it was killed meanwhile."""
        if worker.dead:
            return
        bundle = worker.bundle
        assert bundle is not None
        if not worker.begun:
            self.staged.remove(bundle)
            self.opened, worker.begun = self.opened + 1, True
        if holds(self.held, bundle.request):
            self.heard.append(Over(bundle.number))
            self._free(worker)
            return
        self.heard.append(Reported(bundle.number, [{"node": "here", "rests": False}]))
        self._train(worker, 0)

    def _train(self, worker: Place, index: int) -> None:
        bundle = worker.bundle
        assert bundle is not None
        if index == len(bundle.orders) or holds_gpu(self.held, bundle.request):
            self.heard.append(Over(bundle.number))
            self._free(worker)
            return
        order = bundle.orders[index]
        seconds, fails = self.seconds(order["key"], bundle.request.gpus)
        self.heard.append(Reported(bundle.number, [{"started": order["attempt"]}]))
        self.started.append(Start(self.now, seconds, bundle.request.gpus))
        ended: Ended = {"ended": order["attempt"], "seconds": seconds}
        if fails:
            ended["fault"] = Fault("memory", "out of memory").to_json()
        else:
            ended["record"] = {"key": order["key"], **RECORD}  # type: ignore[typeddict-item]

        def end() -> None:
            self.heard.append(Reported(bundle.number, [ended]))
            self._train(worker, index + 1)

        self._at(seconds, end)

    def _free(self, worker: Place) -> None:
        """A worker has nothing to do: it takes over a trial that waits, stays, or ends."""
        alike = [bundle for bundle in self.staged if bundle.request == worker.request]
        if alike:
            self.staged.remove(alike[0])
            for other in [other for other in self.workers if other.bundle is alike[0]]:
                self._end(other)  # it was starting
            worker.bundle = alike[0]
            self._at(0.0, lambda: self._begin(worker))
        elif self.more and not self.staged and self.idle is None:
            worker.bundle, self.idle = None, worker
        else:
            self._end(worker)

    def _end(self, worker: Place) -> None:
        worker.dead = True
        self.workers.remove(worker)
        self._give_back(worker)

    def _built(self, place: Place, request: Request) -> None:
        self._give_back(place)
        self.claims.remove(request)

    def _placed(self, request: Request) -> Place | None:
        """Resources for a request, on the emptiest GPU, which is the worst case."""
        gpu = max(range(len(self.gpus)), key=self.gpus.__getitem__, default=None) if request.gpus else None
        if self.cpus + TINY < request.cpus or (
            request.gpus and (gpu is None or self.gpus[gpu] + TINY < request.gpus)
        ):
            return None
        self.cpus -= request.cpus
        if gpu is not None:
            self.gpus[gpu] -= request.gpus
        return Place(request, gpu)

    def _give_back(self, place: Place) -> None:
        self.cpus += place.request.cpus
        if place.gpu is not None:
            self.gpus[place.gpu] += place.request.gpus

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ties), happen))


@dataclass
class Fixed:
    """A cluster all of whose machines meet any request."""

    total: Capacity
    machines: list[str]

    def capacity(self) -> Capacity:
        return self.total

    def fitting(self, request: Request) -> list[str]:
        return self.machines


class SimulatedSweep:
    """A sweep of trials, each with its seconds and share of a GPU, on machines. Trials whose index in `needs` has a
    larger share run out of memory after a minute."""

    def __init__(
        self,
        store: Store,
        machines: Sequence[Machine],
        trials: Sequence[tuple[float, float]],
        *,
        needs: Mapping[int, float] | None = None,
        known: bool = True,
        **run: Any,
    ) -> None:
        plan = plan_of(tiny(grid={"seed": list(range(len(trials)))}, run=run), store)
        keys = [task.key for task in plan.tasks]
        seconds = {key: seconds for key, (seconds, _) in zip(keys, trials, strict=True)}
        wants = {keys[i]: share for i, share in (needs or {}).items()}

        def takes(key: str, share: float) -> tuple[float, bool]:
            fails = 0 < share < wants.get(key, 0.0)
            return (60.0 if fails else seconds[key]), fails

        self.tune = SimulatedTune(machines, takes)
        leases = Leases(Ledger(store.where).storage, "one")
        self.context = SweepContext(plan, store, Observer(), leases, now=lambda: self.tune.now)
        pace = Pace(seconds if known else {}, dict.fromkeys(keys), learned=known)
        self.progress = Progress(self.context, pace)
        self.progress.begin(By({key: share for key, (_, share) in zip(keys, trials, strict=True)}))
        while self.progress.unbuilt:
            self.progress.data_built(self.progress.buildable()[0])
        total = Capacity(self.tune.cpus, float(len(self.tune.gpus)))
        self.scheduler = Scheduler(
            self.context, self.progress, self.tune, Fixed(total, ["here"]), self._claims
        )

    def _claims(self) -> Claims:
        return Claims(tuple(self.tune.claims), tuple(request for request, _ in self.tune.builders))

    @property
    def started(self) -> list[Start]:
        return self.tune.started

    def play(self, until: float = math.inf) -> float:
        """Run to the end, or until some moment; the time then."""
        self._settle()
        while not self.progress.finished and self.tune._events and self.tune._events[0][0] <= until:
            self.tune.advance()
            self._settle()
            assert self.tune.opened < 1000, "workers start and end for ever"
        assert self.progress.finished or self.tune._events, "nothing runs and nothing is scheduled"
        return self.tune.now

    def _settle(self) -> None:
        """Let driver and Tune act until nothing changes."""
        for _ in range(200):
            self.progress.poll()
            before = (len(self.tune.staged), len(self.tune.workers), len(self.tune.builders))
            self.scheduler.step()
            self.tune.settle()
            if not self.tune.heard and before == (
                len(self.tune.staged),
                len(self.tune.workers),
                len(self.tune.builders),
            ):
                return
        raise AssertionError("workers start and end for ever")
