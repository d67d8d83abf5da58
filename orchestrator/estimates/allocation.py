"""Which workers to open for the trials that wait: the longest first, as far as there is room. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.estimates.capacity import Claim, idle, room
from orchestrator.estimates.gpus import WORKER_SECONDS, outranks


@dataclass(frozen=True)
class Waiting:
    """A trial that waits for a share of a GPU, which may be free in so many seconds."""

    seconds: float
    share: float
    free_in: float = 0.0

    def before(self, seconds: float) -> bool:
        """Whether a worker for a trial of so many seconds would have to wait until this one has begun."""
        return outranks(self.seconds, seconds) and WORKER_SECONDS + seconds > self.free_in


def openings(
    machines: Sequence[dict[str, float]],
    workers: Counter[float],
    waiting: Mapping[float, Sequence[float]],
    *,
    cpus: float,
    claims: Sequence[Claim] = (),
    free_in: Callable[[float], float] = lambda share: 0.0,
    place: Callable[[float], bool] = lambda share: False,
) -> list[float]:
    """The shares of the workers to start, in addition to the existing ones.

    `waiting` has, for each share, the durations of the trials without a worker, in the order in which they
    start. If the first of all does not fit, room is kept for it: much shorter trials get only what it leaves,
    unless they end before a GPU is free for it (in `free_in` seconds). `place` is called for every worker and
    returns whether the GPUs, as they are occupied now, have room for it; they may have even where packing all
    workers anew would leave none.
    """
    left = {share: list(seconds) for share, seconds in waiting.items() if seconds}
    workers, opened, first = workers.copy(), list[float](), None
    while left:
        share = max(left, key=lambda one: (left[one][0], one))
        reserved = list(claims)
        if first is not None and first.before(left[share][0]):
            reserved.append(Claim(cpus, first.share))
        fit = room(machines, workers, share, cpus=cpus, reserved=reserved)
        taken = [*claims, *[Claim(cpus)] * workers.total()]
        placed = not fit and first is None and idle(machines, taken, cpus) > 0 and place(share)
        if not fit and not placed:
            first = first or Waiting(left[share][0], share, free_in(share))
            del left[share]
            continue
        others = max((trials[0] for one, trials in left.items() if one != share), default=0.0)
        alike = sum(one >= others for one in left[share])
        count = 1 if placed else min(fit, alike if first is None else 1)
        for _ in range(count - placed):
            place(share)
        workers[share] += count
        opened += [share] * count
        left[share] = left[share][count:]
        left = {one: trials for one, trials in left.items() if trials}
    return opened
