"""What Ray Tune is asked to run next, and what follows from what it reports. Imports no ray."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.execution.bundles import Bundle, bundle_size
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault, died, is_out_of_memory, killed_for_memory
from orchestrator.execution.messages import Ended, Message, Order
from orchestrator.execution.node_health import Nodes
from orchestrator.execution.pressure import Pressure
from orchestrator.execution.progress import Attempt, Progress
from orchestrator.execution.requests import Capacity, Claims, Request
from orchestrator.storage.backoff import pause
from orchestrator.storage.records import DriverState
from trainers.spec import plain

AHEAD = 8  # one bundle for this many workers waits to be taken over by one that becomes free
IDLE_SECONDS = 10.0  # how long a worker without work is kept
SUGGEST_SECONDS = 0.5  # for suggestions at a time: each takes leases, and events wait meanwhile
STARVED_SECONDS = 600.0  # if every worker is killed for memory at its start for this long, the sweep fails
DEATHS = 8  # workers in a row that may die before they start a training,
DYING_SECONDS = 60.0  # and for how long: Ray itself may be recovering
LONGEST_PAUSE = 8.0  # seconds without suggestions after such a death


@dataclass(frozen=True)
class Reported:
    """Messages of the worker that runs a bundle."""

    bundle: int
    messages: Sequence[Message]


@dataclass(frozen=True)
class Over:
    """A bundle is over. `why` is empty unless its process died, or Tune failed."""

    bundle: int
    why: str = ""


Event = Reported | Over


def holds(held: frozenset[str], request: Request) -> bool:
    """Whether a request includes any resource that is `held` for others."""
    return "cpus" in held or holds_gpu(held, request)


def holds_gpu(held: frozenset[str], request: Request) -> bool:
    """Whether a request includes a GPU, and GPUs are `held` for others. Then a bundle ends after the training
    that is running, so that the others wait for one training only."""
    return request.gpus > 0 and "gpus" in held


class Tune(Protocol):
    """What the scheduler needs of Ray Tune."""

    failures: int  # of Tune itself, since a worker last reported; the scheduler resets it
    stopping: set[int]  # attempts whose bundle is to end at the next report
    withdrawn: set[int]  # bundles that are to end if they have not begun
    held: frozenset[str]  # "cpus", "gpus": a bundle that takes any of these may not begin, nor go on on a GPU
    more: bool  # whether a worker without work is kept

    def suggest(self, bundle: Bundle) -> None:
        """Have Tune run a bundle as soon as there are resources for it."""

    def events(self) -> Iterator[Event]:
        """What happened since the last call; waits briefly if nothing did. OSError if Tune cannot be kept
        running."""


class Machines(Protocol):
    """What the scheduler needs to know of a cluster."""

    def capacity(self) -> Capacity:
        """All its processors and GPUs."""

    def fitting(self, request: Request) -> Collection[str]:
        """The ids of the machines that are alive and could meet a request if nothing else ran there."""


@dataclass
class Live:
    """A bundle that was suggested and is not over, with its attempts that have not ended."""

    bundle: Bundle
    attempts: dict[int, Attempt]
    node: str = ""  # the id of the machine on which it runs, once it has begun
    ran: bool = False  # whether any of its trainings has started


@dataclass
class Scheduler:
    """Connects Tune with progress. All calls come from one thread."""

    context: SweepContext
    progress: Progress
    tune: Tune
    cluster: Machines
    claims: Callable[[], Claims]
    kept: Set[str] = frozenset()  # keys of the trials that keep their weights
    pressure: Pressure = field(default_factory=Pressure)  # shared with the builders
    live: dict[int, Live] = field(default_factory=dict)
    deaths: int = 0  # of workers that died before they started a training, since one did
    starved: float | None = None  # when workers began to be killed for memory at their start
    dying: float | None = None  # when they began to die at their start
    resumes: float = -math.inf  # when the next bundle may be suggested

    def __post_init__(self) -> None:
        self.nodes = Nodes(self.context.now)
        self._capacity, self._claims = self.cluster.capacity(), Claims()
        self._together = 0  # bundles at the beginning of this step
        self._number = 0
        self._busy = -math.inf  # when trainings were last suggested

    def step(self) -> None:
        """Process what Tune reports, and suggest what may run next."""
        self._together = len(self.live)
        for event in self.tune.events():
            if (live := self.live.get(event.bundle)) is None:
                continue
            if isinstance(event, Reported):
                for message in event.messages:
                    self._reported(live, message)
            else:
                del self.live[event.bundle]
                self._over(live, event.why)
        self.suggest()

    def to_json(self) -> DriverState:
        """Its part of the heartbeat."""
        shares = self.progress.ready_shares
        more = max((self._room(self._request(share)) for share in shares), default=0)
        return {"slots": len(self.live) + more, "resting": len(self.nodes.resting)}

    # -- what runs next

    def suggest(self) -> None:
        """Suggest trainings as far as there is room for them, and a few ahead, which workers take over when
        they become free."""
        self.progress.keep_ahead(len(self.live) + 1)
        self._claims, self._capacity = self.claims(), self.cluster.capacity()
        self.tune.held = self._claims.held(self.cluster.fitting)
        self._withdraw()
        now, end = self.context.now(), time.monotonic() + SUGGEST_SECONDS
        while now >= self.resumes and (share := self._next_share()) is not None and self._suggest(share, end):
            self._busy = now
            if time.monotonic() > end:
                break
        soon = bool(self.progress.ready_shares) or now - self._busy < IDLE_SECONDS
        self.tune.more = soon and not self._claims.all

    def _withdraw(self) -> None:
        """Take back what can no longer begin: the machines that it does not avoid are gone."""
        for number, live in self.live.items():
            request = live.bundle.request
            if request.avoid and not live.node and not set(self.cluster.fitting(request)) - request.avoid:
                self.tune.withdrawn.add(number)

    def _next_share(self) -> float | None:
        """The share of a GPU of the next training to suggest. On GPUs the order is strict: nothing is
        suggested that could take the place of the first, or of a larger share that waits."""
        waiting = (live.bundle.request.gpus for live in self.live.values() if not live.node)
        largest, kinds = max(waiting, default=0.0), set[bool]()  # kinds that are full: with a GPU or without
        for share in self.progress.ready_shares:
            request = self._request(share)
            if bool(share) in kinds or holds(self.tune.held, request) or len(self.live) >= self._most:
                continue
            if (not share or share >= largest) and (self._room(request) > 0 or self._may_wait(request)):
                return share
            kinds.add(bool(share))
        return None

    def _may_wait(self, request: Request) -> bool:
        """Whether one more bundle may be suggested for which there is no room yet."""
        alike = [live for live in self.live.values() if bool(live.bundle.request.gpus) == bool(request.gpus)]
        waiting = sum(not live.node for live in alike)
        begun = [live.bundle.request for live in self.live.values() if live.node]
        if self._claims.all and self._capacity.room(request, begun, self._claims.all) < 0:
            return False  # those that help a builder wait for what the next worker frees
        return waiting < 1 + (len(alike) - waiting) // AHEAD

    def _suggest(self, share: float, end: float) -> bool:
        """Suggest the next trainings with this share, as many as can be leased until `end`; whether there was
        one."""
        attempts = self._attempts(share, end)
        if not attempts:
            return False
        first, self._number = attempts[0], self._number + 1
        machines = self.cluster.fitting(self._request(share))
        bundle = Bundle(
            number=self._number,
            name=first.task.point.name + (f" and {len(attempts) - 1} more" if len(attempts) > 1 else ""),
            folder=f"{first.task.key}-{first.number}",
            request=self._request(share, avoid=self.nodes.avoided(first.task.key, machines)),
            orders=tuple(map(self._order, attempts)),
            resting=self.nodes.resting,
        )
        self.live[bundle.number] = Live(bundle, {attempt.number: attempt for attempt in attempts})
        self.tune.suggest(bundle)
        return True

    def _attempts(self, share: float, end: float) -> list[Attempt]:
        """The next trainings with this share that travel together. A training runs alone if its duration is
        not known, if it failed on some machine, or if it may be pruned."""
        slots = min(self._most, len(self.live) + max(1, self._room(self._request(share))))
        size = bundle_size(self.progress.waiting(share), int(slots))
        attempts, failed = list[Attempt](), self.nodes.failures
        while len(attempts) < size and (attempt := self.progress.offer(share, failed if attempts else ())):
            attempts.append(attempt)
            key = attempt.task.key
            pruned = self.context.run.scheduler != "none"
            alone = pruned or key in failed or not self.progress.pace.known(key)
            if alone or time.monotonic() > end:
                break
        return attempts

    def _request(self, share: float, avoid: frozenset[str] = frozenset()) -> Request:
        return Request(self.context.run.cpus_per_trial, share, avoid)

    def _room(self, request: Request) -> int:
        """For how many more bundles with such a request there is room."""
        running = [live.bundle.request for live in self.live.values()]
        room = self._capacity.room(request, running, self._claims.all)
        return int(max(0, min(room, self._most - len(self.live))))

    @property
    def _most(self) -> float:
        """The maximum number of bundles at a time: as the sweep says, or fewer where memory is short."""
        memory = max(0.0, self.pressure.most - len(self._claims.all))
        return min(self.context.run.max_concurrent or math.inf, memory)

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

    # -- what was reported

    def _reported(self, live: Live, message: Message) -> None:
        if "node" in message:
            live.node, self.tune.failures, self.starved = message["node"], 0, None
            if message["rests"]:
                self._return(live)
        elif "started" in message:  # workers can be started
            self.deaths, self.dying, live.ran = 0, None, True
            self.progress.started(message["started"])
        elif "rows" in message:
            if self.progress.reported(message["attempt"], message["rows"]):
                self.tune.stopping.add(message["attempt"])
        elif (attempt := live.attempts.pop(message["ended"], None)) is not None:
            self._ended(live.node, attempt, message)

    def _ended(self, node: str, attempt: Attempt, ended: Ended) -> None:
        self.tune.stopping.discard(attempt.number)
        if "fault" in ended:
            self._failed(node, attempt, Fault.from_json(ended["fault"]))
            return
        self.nodes.worked(node)
        self.progress.pace.took(attempt.task.key, ended["seconds"])
        self.progress.ended(attempt.number, ended["record"])

    def _failed(self, node: str, attempt: Attempt, fault: Fault) -> None:
        if fault.kind == "machine":
            self.nodes.failed(node, attempt.task.key)
        self.progress.attempt_failed(attempt.number, fault)

    def _over(self, live: Live, why: str) -> None:
        """A bundle is over: of its trainings that have not ended, one was running if its process died, or was
        pruned, and the others are ready again."""
        if why and live.attempts and not live.ran:
            self._died_at_start(why)
        for number, attempt in live.attempts.items():
            if number in self.tune.stopping:
                self.nodes.worked(live.node)
                self.progress.attempt_pruned(number)
            elif why and attempt.since:
                self._failed(live.node, attempt, self._death(attempt, why))
            else:
                self.progress.returned(number)
        self.tune.stopping.difference_update(live.attempts)

    def _return(self, live: Live) -> None:
        """The trainings of a bundle are ready again."""
        for number in live.attempts:
            self.progress.returned(number)
        live.attempts.clear()

    def _died_at_start(self, why: str) -> None:
        """A worker died before it started a training. OSError if none can be started for a while: all of them
        die, or there is not enough memory for one and nothing runs whose end would free some."""
        if is_out_of_memory(why):
            self.pressure.note("a worker that starts", 1 + len(self.live) + len(self._claims.all))
            self.starved = self.starved or time.monotonic()
            if not self.progress.running and time.monotonic() - self.starved > STARVED_SECONDS:
                raise OSError(f"memory does not suffice to start a worker: {why}")
        elif not self.tune.failures:  # deaths caused by a failure of Tune are counted in `failures`
            now = self.context.now()
            self.deaths, self.dying = self.deaths + 1, now if self.dying is None else self.dying
            self.resumes = now + min(LONGEST_PAUSE, pause(self.deaths))
            if self.deaths > max(DEATHS, 2 * self._together) and now - self.dying >= DYING_SECONDS:
                raise OSError(f"workers die as they start: {why}")

    def _death(self, attempt: Attempt, why: str) -> Fault:
        """The fault of an attempt whose process died."""
        if not is_out_of_memory(why):
            return died(why)
        fewer = self.pressure.note(attempt.task.key, len(self.progress.running) + len(self._claims.all))
        return killed_for_memory(self.pressure.most if fewer else None)
