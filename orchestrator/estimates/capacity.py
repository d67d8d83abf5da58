"""How many more trials fit on the machines of a cluster. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TINY = 1e-6  # shares such as 1/3 do not add up to 1


@dataclass(frozen=True)
class Claim:
    """What a process takes, or waits for, of one machine: processors, and GPUs or a share of one."""

    cpus: float
    gpus: float = 0.0


def room(
    machines: Sequence[dict[str, float]],
    taken: Counter[float],
    share: float,
    *,
    cpus: float,
    reserved: Iterable[Claim] = (),
) -> int:
    """How many more workers with `share` of a GPU (0: none) and `cpus` processors find a place.

    `machines` have their resources, as `{"CPU": 8, "GPU": 2}`; `taken` counts the workers that there are, or
    will be, by share; what is `reserved` for others finds its place before these. A share never spans two
    GPUs; more than one GPU is whole ones.
    """
    spots = [_Spot(m.get("CPU", 0.0), [1.0] * int(m.get("GPU", 0.0))) for m in machines]
    claims = sorted(reserved, key=lambda claim: (-claim.gpus, -claim.cpus))
    workers = [Claim(cpus, other) for other, n in sorted(taken.items(), reverse=True) for _ in range(n)]
    for claim in (*claims, *workers):
        next((spot for spot in spots if spot.take(claim)), None)
    return min(
        sum(spot.fits(Claim(cpus, share)) for spot in spots), idle(machines, (*claims, *workers), cpus)
    )


def idle(machines: Iterable[dict[str, float]], claims: Iterable[Claim], cpus: float) -> int:
    """For how many workers there are processors beside those of `claims`, wherever these are."""
    left = sum(machine.get("CPU", 0.0) for machine in machines) - sum(claim.cpus for claim in claims)
    return max(0, math.floor((left + TINY) / cpus))


def crowded(workers: int, claims: Sequence[Claim], whole: float, *, cpus: float) -> bool:
    """Whether so many workers, each with `cpus` of the `whole` processors that there are, have some that the
    `claims` wait for. One worker may stay, whatever is claimed, unless there is no room beside it for the
    largest of them: helpers can take turns."""
    if not claims:
        return False
    one = cpus if max(claim.cpus for claim in claims) + cpus <= whole + TINY else 0.0
    left = whole - sum(claim.cpus for claim in claims)
    return workers * cpus > max(one, left) + TINY


class _Spot:
    """What a machine has left."""

    def __init__(self, cpus: float, gpus: list[float]) -> None:
        self.cpus, self.gpus = cpus, gpus

    def fits(self, claim: Claim) -> int:
        by_cpu = math.floor((self.cpus + TINY) / claim.cpus)
        if not claim.gpus:
            return by_cpu
        if claim.gpus > 1:
            whole = sum(gpu + TINY >= 1 for gpu in self.gpus)
            return min(by_cpu, math.floor((whole + TINY) / claim.gpus))
        return min(by_cpu, sum(math.floor((gpu + TINY) / claim.gpus) for gpu in self.gpus))

    def take(self, claim: Claim) -> bool:
        if self.fits(claim) < 1:
            return False
        self.cpus -= claim.cpus
        part, cards = min(1.0, claim.gpus), math.ceil(claim.gpus)
        for i in [i for i, gpu in enumerate(self.gpus) if gpu + TINY >= part][:cards]:
            self.gpus[i] -= part
        return True
