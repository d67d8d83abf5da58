"""Which workers there should be: where new ones are opened, and which give their place to something else."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable

from orchestrator.estimates.allocation import Waiting, openings
from orchestrator.estimates.capacity import Claim, crowded, idle, room
from orchestrator.estimates.gpus import LANE_SECONDS, Cards, Tenant, outranks
from orchestrator.execution.progress import Progress
from orchestrator.execution.ray.connect import Cluster
from orchestrator.execution.ray.tune import Workers

MOST = 1000  # workers that are opened at once, at most
REST_SECONDS = 60.0  # that nothing is opened in place of a worker that had to go: it would go as well


class Places:
    """Between the trials that wait and the machines. Builders and probes come before workers: `claims` says
    what they take or wait for."""

    def __init__(
        self,
        progress: Progress,
        workers: Workers,
        cluster: Cluster,
        claims: Callable[[], list[Claim]],
        memory: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """`memory` says for how many workers that suffices."""
        self.progress, self.workers, self.cluster, self.claims = progress, workers, cluster, claims
        self.memory = memory
        self.cpus = progress.plan.sweep.run.cpus_per_trial
        self.machines: list[dict[str, float]] = []
        self._rest: dict[float, float] = {}  # share -> until when none of it is opened again

    def open(self, tenants: Iterable[Tenant]) -> None:
        """Order workers where trials wait and there is room, or machines will come."""
        self.machines = self.cluster.machines()
        here, claims, workers = list(tenants), self.claims(), self.workers.shares
        cards, stuck = self._cards(here)
        soonest = min(cards.awaited.values(), default=math.inf) - self.progress.now()
        before = [self._best(share, 0, self._free_in(here, share)) for share in stuck]
        wanted = {
            share: seconds
            for share in self.progress.ready.shares
            if not self._rests(share)
            and (seconds := self._seconds(share, workers[share], MOST))
            and (not share or LANE_SECONDS + seconds[0] <= soonest)
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
        """How many trials could run at a time."""
        fits = [self._room(share) for share in self.progress.ready.shares]
        return len(self.workers.open) + max(fits, default=0)

    def crowded(self, seats: int) -> bool:
        """Whether builders or probes wait for processors that so many workers have."""
        whole = sum(machine.get("CPU", 0.0) for machine in self.machines)
        return crowded(seats, self.claims(), whole, cpus=self.cpus)

    def awaited(self, mine: Tenant, tenants: Iterable[Tenant]) -> bool:
        """Whether a worker that could begin its next trial is to let go of its card instead."""
        if not mine.share:
            return False
        cards, stuck = self._cards(tenants)
        seconds, now = next(self.progress.waiting(mine.share), None), self.progress.now()
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
        """Whether a worker that has nothing to do stands where another could work."""
        cards, stuck = self._cards(tenants)
        first = self._first(share, stuck)
        return first is not None and not self._fits(cards, first.share)

    def _rests(self, share: float) -> bool:
        """Whether workers with that share have just made way for something that is still about."""
        others = any(claim.gpus for claim in self.claims()) or len(self.progress.ready.shares) > 1
        return others and self.progress.now() < self._rest.get(share, 0.0)

    def _fits(self, cards: Cards, share: float) -> bool:
        """Whether one more worker finds a place: if workers were packed anew, or on the cards as they are."""
        taken = [*self.claims(), *[Claim(self.cpus)] * len(self.workers.open)]
        idle_cpus = self._more > 0 and idle(self.machines, taken, self.cpus) > 0
        return self._room(share) > 0 or (idle_cpus and cards.place(share))

    def _cards(self, tenants: Iterable[Tenant]) -> tuple[Cards, Counter[float]]:
        """The GPUs, with what comes before the trials, and the workers that have not begun, in their places;
        and the shares of the workers that find none."""
        here = list(tenants)
        count = sum(int(machine.get("GPU", 0.0)) for machine in self.machines)
        cards, stuck = Cards(count, here, self.progress.now()), Counter[float]()
        for claim in self.claims():
            if claim.gpus and not cards.place(claim.gpus):
                cards.wait(claim.gpus)
        coming = self.workers.shares - Counter(tenant.share for tenant in here)
        for share in sorted(coming.elements(), reverse=True):
            if share and not cards.place(share):
                stuck[share] += 1
        return cards, stuck

    def _free_in(self, tenants: list[Tenant], share: float) -> float:
        """Seconds until a share could be free for a trial; 0 where nobody knows."""
        soonest = self._cards(tenants)[0].wait(share)
        return soonest - self.progress.now() if soonest < math.inf else 0.0

    def _first(self, share: float, stuck: Counter[float]) -> Waiting | None:
        """The longest trial that waits for another share than this, and for which no worker has a place."""
        workers = self.workers.shares - stuck
        others = (self._best(one, workers[one]) for one in self.progress.ready.shares if one != share)
        return max((one for one in others if one), key=lambda one: one.seconds, default=None)

    def _best(self, share: float, workers: int, free_in: float = 0.0) -> Waiting | None:
        """The first trial that waits for a share beyond those that so many workers will take."""
        found = self._seconds(share, workers, 1)
        return Waiting(found[0], share, free_in) if found else None

    def _seconds(self, share: float, workers: int, most: int) -> list[float]:
        """How long the first trials take that wait for a share beyond those that so many workers will
        take."""
        running = sum(attempt.share == share for attempt in self.progress.live.values())
        spare = max(0, workers - running)
        return list(itertools.islice(self.progress.waiting(share), spare, spare + most))

    def _room(self, share: float) -> int:
        fit = room(self.machines, self.workers.shares, share, cpus=self.cpus, reserved=self.claims())
        return int(min(fit, self._more))

    @property
    def _more(self) -> float:
        """How many more workers would find trials that may run at a time."""
        return max(0, self.most - len(self.workers.open))

    @property
    def most(self) -> float:
        """How many workers there may be: as many as the sweep says, fewer where memory does not suffice."""
        return min(self.progress.plan.sweep.run.max_concurrent or math.inf, self.memory())
