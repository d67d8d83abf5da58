"""Workers are opened for the longest trials that wait, and room that one of them needs is not frittered away."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest

from orchestrator.estimates.allocation import openings
from orchestrator.estimates.capacity import Claim

GPU = [{"CPU": 16.0, "GPU": 1.0}]
GPUS = [{"CPU": 16.0, "GPU": 2.0}]


@pytest.mark.parametrize(
    ("machines", "workers", "waiting", "opened"),
    [
        (GPU, {}, {}, []),
        (GPU, {}, {0.25: [9.0] * 8}, [0.25] * 4),
        (GPU, {}, {0.25: [9.0] * 2}, [0.25] * 2),
        (GPU, {0.25: 3}, {0.25: [9.0] * 8}, [0.25]),
        (GPUS, {}, {1.0: [300.0] * 9, 0.25: [36_000.0]}, [0.25, 1.0]),
        (GPUS, {}, {1.0: [300.0] * 9, 0.25: [36_000.0, 200.0]}, [0.25, 1.0, 0.25]),
        (GPU, {}, {0.5: [90.0, 70.0], 0.25: [80.0, 60.0]}, [0.5, 0.25, 0.25]),
    ],
)
def test_the_longest_get_lanes_first(
    machines: list[dict[str, float]],
    workers: dict[float, int],
    waiting: dict[float, list[float]],
    opened: list[float],
) -> None:
    assert openings(machines, Counter(workers), waiting, cpus=1) == opened


def test_what_builders_and_probes_claim_is_not_given_away() -> None:
    waiting = {0.25: [9.0] * 8}
    assert openings(GPU, Counter(), waiting, cpus=1, claims=[Claim(1, 1)]) == []
    assert openings(GPUS, Counter(), waiting, cpus=1, claims=[Claim(1, 1)]) == [0.25] * 4


@pytest.mark.parametrize(
    ("seconds", "free_in", "opened"),
    [
        (300.0, 100.0, []),  # room is kept for the long one
        (300.0, 310.0, [0.25]),  # it is over before that can begin
        (300.0, math.inf, [0.25]),
        (20_000.0, 100.0, [0.25]),  # it is worth as much
    ],
)
def test_room_is_kept_for_a_long_trial_unless_it_would_idle(
    seconds: float, free_in: float, opened: list[float]
) -> None:
    waiting = {1.0: [36_000.0], 0.25: [seconds]}
    taken = Counter({0.25: 3})
    assert openings(GPU, taken, waiting, cpus=1, free_in=lambda share: free_in) == opened


def test_hundreds_of_lanes_are_opened_at_once() -> None:
    cluster = [{"CPU": 64.0, "GPU": 8.0}] * 8
    begun = time.perf_counter()
    assert len(openings(cluster, Counter(), {0.25: [9.0] * 1000}, cpus=1)) == 256
    assert time.perf_counter() - begun < 1
