"""How many more trials fit on the machines of a cluster. Pure."""

from __future__ import annotations

import math
from collections import Counter

TINY = 1e-6  # shares such as 1/3 do not add up to 1


def room(
    machines: list[dict[str, float]],
    taken: Counter[float],
    share: float,
    *,
    cpus: float,
    reserved: float = 0.0,
) -> int:
    """How many more lanes with `share` of a GPU (0: none) and `cpus` processors find a place.

    `machines` have their resources, as `{"CPU": 8, "GPU": 2}`; `taken` counts the lanes that there are, or
    will be, by share; `reserved` processors are for others. A share never spans two GPUs.
    """
    spots = [_Spot(m.get("CPU", 0.0), [1.0] * int(m.get("GPU", 0.0))) for m in machines]
    for spot in spots:
        give = min(reserved, spot.cpus)
        spot.cpus, reserved = spot.cpus - give, reserved - give
    for other, n in sorted(taken.items(), reverse=True):
        for _ in range(n):
            next((spot for spot in spots if spot.take(other, cpus)), None)
    return sum(spot.fits(share, cpus) for spot in spots)


class _Spot:
    """What a machine has left."""

    def __init__(self, cpus: float, gpus: list[float]) -> None:
        self.cpus, self.gpus = cpus, gpus

    def fits(self, share: float, cpus: float) -> int:
        by_cpu = math.floor((self.cpus + TINY) / cpus)
        if not share:
            return by_cpu
        return min(by_cpu, sum(math.floor((gpu + TINY) / share) for gpu in self.gpus))

    def take(self, share: float, cpus: float) -> bool:
        if self.fits(share, cpus) < 1:
            return False
        self.cpus -= cpus
        for i, gpu in enumerate(self.gpus):
            if share and gpu + TINY >= share:
                self.gpus[i] = gpu - share
                break
        return True
