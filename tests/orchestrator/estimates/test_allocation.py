"""Workers are started for the longest waiting trials, and resources that one of them needs are reserved."""

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
def test_the_longest_trials_get_workers_first(
    machines: list[dict[str, float]],
    workers: dict[float, int],
    waiting: dict[float, list[float]],
    opened: list[float],
) -> None:
    assert openings(machines, Counter(workers), waiting, cpus=1) == opened


def test_resources_claimed_by_builders_and_profiles_are_not_given_to_trials() -> None:
    waiting = {0.25: [9.0] * 8}
    assert openings(GPU, Counter(), waiting, cpus=1, claims=[Claim(1, 1)]) == []
    assert openings(GPUS, Counter(), waiting, cpus=1, claims=[Claim(1, 1)]) == [0.25] * 4


@pytest.mark.parametrize(
    ("seconds", "free_in", "opened"),
    [
        (300.0, 100.0, []),  # resources are reserved for the long one
        (300.0, 310.0, [0.25]),  # it ends before the long one can start
        (300.0, math.inf, [0.25]),
        (20_000.0, 100.0, [0.25]),  # it is about as long
    ],
)
def test_resources_are_reserved_for_a_long_trial_unless_they_would_idle(
    seconds: float, free_in: float, opened: list[float]
) -> None:
    waiting = {1.0: [36_000.0], 0.25: [seconds]}
    taken = Counter({0.25: 3})
    assert openings(GPU, taken, waiting, cpus=1, free_in=lambda share: free_in) == opened


def test_hundreds_of_workers_are_allocated_quickly() -> None:
    cluster = [{"CPU": 64.0, "GPU": 8.0}] * 8
    begun = time.perf_counter()
    assert len(openings(cluster, Counter(), {0.25: [9.0] * 1000}, cpus=1)) == 256
    assert time.perf_counter() - begun < 1
