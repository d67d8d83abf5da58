"""Where workers are started, and which of them end to make room."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable

from orchestrator.estimates.allocation import Waiting, openings
from orchestrator.estimates.capacity import Claim, crowded, idle, room
from orchestrator.estimates.gpus import WORKER_SECONDS, Cards, Tenant, outranks
from orchestrator.execution.context import SweepContext
from orchestrator.execution.progress import Progress
from orchestrator.execution.ray.connect import Cluster
from orchestrator.execution.ray.tune import Workers

MOST = 1000  # most workers started at a time
REST_SECONDS = 60.0  # after a worker gave up its GPU, none with its share starts: it would be ended too


class Places:
    """Places waiting trials on machines. Builders and profiling tasks take precedence over workers:
    `claims` has the resources that they hold or wait for."""

    def __init__(
        self,
        context: SweepContext,
        progress: Progress,
        workers: Workers,
        cluster: Cluster,
        claims: Callable[[], list[Claim]],
        memory: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """`memory` returns how many workers there is memory for."""
        self.context, self.progress, self.workers, self.cluster = context, progress, workers, cluster
        self.claims, self.memory = claims, memory
        self.cpus = context.run.cpus_per_trial
        self.machines: list[dict[str, float]] = []
        self._rest: dict[float, float] = {}  # share -> when workers with it may start again

    def open(self, tenants: Iterable[Tenant]) -> None:
        """Start workers where trials wait and there is room, or machines will join."""
        self.machines = self.cluster.machines()
        here, claims, workers = list(tenants), self.claims(), self.workers.shares
        cards, stuck = self._cards(here)
        soonest = min(cards.awaited.values(), default=math.inf) - self.context.now()
        before = [self._best(share, 0, self._free_in(here, share)) for share in stuck]
        wanted = {
            share: seconds
            for share in self.progress.ready_shares
            if not self._rests(share)
            and (seconds := self._seconds(share, workers[share], MOST))
            and (not share or WORKER_SECONDS + seconds[0] <= soonest)
            and not any(one is not None and one.before(seconds[0]) for one in before)
        }
        found = openings(
            self.machines,
            workers,
            wanted,
            cpus=self.cpus,
            claims=claims,
            free_in=lambda share: self._free_in(here, share),
            place=cards.place,
        )
        for share in found[: int(min(len(found), self._more))]:
            self.workers.order(share)

    def slots(self) -> int:
        """How many trials could run at the same time."""
        fits = [self._room(share) for share in self.progress.ready_shares]
        return len(self.workers.open) + max(fits, default=0)

    def crowded(self, processes: int) -> bool:
        """Whether builders or profiling tasks wait for processors that this many workers hold."""
        whole = sum(machine.get("CPU", 0.0) for machine in self.machines)
        return crowded(processes, self.claims(), whole, cpus=self.cpus)

    def awaited(self, mine: Tenant, tenants: Iterable[Tenant]) -> bool:
        """Whether a worker that could start its next trial should give up its GPU instead."""
        if not mine.share:
            return False
        cards, stuck = self._cards(tenants)
        seconds, now = next(self.progress.waiting(mine.share), None), self.context.now()
        first = self._first(mine.share, stuck)
        if (
            first is not None
            and outranks(first.seconds, seconds or 0.0)
            and (stuck[first.share] or not self._fits(cards, first.share))
        ):
            cards.wait(first.share)
        free = cards.awaited.get(mine.card)
        found = free is not None and (seconds is None or now + seconds > free)
        if found:
            self._rest[mine.share] = now + REST_SECONDS
        return found

    def outdone(self, share: float, tenants: Iterable[Tenant]) -> bool:
        """Whether an idle worker takes up resources that another could use."""
        cards, stuck = self._cards(tenants)
        first = self._first(share, stuck)
        return first is not None and not self._fits(cards, first.share)

    def _rests(self, share: float) -> bool:
        """Whether workers with that share ended recently to make room for something that has not finished."""
        others = any(claim.gpus for claim in self.claims()) or len(self.progress.ready_shares) > 1
        return others and self.context.now() < self._rest.get(share, 0.0)

    def _fits(self, cards: Cards, share: float) -> bool:
        """Whether one more worker fits: if all workers were packed anew, or on the GPUs as they are now."""
        taken = [*self.claims(), *[Claim(self.cpus)] * len(self.workers.open)]
        idle_cpus = self._more > 0 and idle(self.machines, taken, self.cpus) > 0
        return self._room(share) > 0 or (idle_cpus and cards.place(share))

    def _cards(self, tenants: Iterable[Tenant]) -> tuple[Cards, Counter[float]]:
        """The GPUs with what takes precedence over trials, and with the workers that have not started; and
        the shares of workers that do not fit."""
        here = list(tenants)
        count = sum(int(machine.get("GPU", 0.0)) for machine in self.machines)
        cards, stuck = Cards(count, here, self.context.now()), Counter[float]()
        for claim in self.claims():
            if claim.gpus and not cards.place(claim.gpus):
                cards.wait(claim.gpus)
        coming = self.workers.shares - Counter(tenant.share for tenant in here)
        for share in sorted(coming.elements(), reverse=True):
            if share and not cards.place(share):
                stuck[share] += 1
        return cards, stuck

    def _free_in(self, tenants: list[Tenant], share: float) -> float:
        """Seconds until a share could be free for a trial; 0 if unknown."""
        soonest = self._cards(tenants)[0].wait(share)
        return soonest - self.context.now() if soonest < math.inf else 0.0

    def _first(self, share: float, stuck: Counter[float]) -> Waiting | None:
        """The longest waiting trial that needs another share than this and for which no worker has room."""
        workers = self.workers.shares - stuck
        others = (self._best(one, workers[one]) for one in self.progress.ready_shares if one != share)
        return max((one for one in others if one), key=lambda one: one.seconds, default=None)

    def _best(self, share: float, workers: int, free_in: float = 0.0) -> Waiting | None:
        """The first waiting trial for a share, after those that this many workers will take."""
        found = self._seconds(share, workers, 1)
        return Waiting(found[0], share, free_in) if found else None

    def _seconds(self, share: float, workers: int, most: int) -> list[float]:
        """The durations of the first waiting trials for a share, after those that this many workers will
        take."""
        running = sum(attempt.share == share for attempt in self.progress.running)
        spare = max(0, workers - running)
        return list(itertools.islice(self.progress.waiting(share), spare, spare + most))

    def _room(self, share: float) -> int:
        fit = room(self.machines, self.workers.shares, share, cpus=self.cpus, reserved=self.claims())
        return int(min(fit, self._more))

    @property
    def _more(self) -> float:
        """How many more workers would find trials that may run at the same time."""
        return max(0, self.most - len(self.workers.open))

    @property
    def most(self) -> float:
        """The maximum number of workers: as the sweep says, or fewer where there is not enough memory."""
        return min(self.context.run.max_concurrent or math.inf, self.memory())
