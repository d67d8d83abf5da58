"""The number of trials that fit equals that of a search over all placements, and no share spans two GPUs."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.estimates.capacity import Claim, crowded, room


@pytest.mark.parametrize(
    ("machines", "taken", "share", "cpus", "reserved", "fits"),
    [
        ([{"CPU": 2}], {}, 0.0, 1, [], 2),
        ([{"CPU": 2}], {0.0: 1}, 0.0, 1, [], 1),
        ([{"CPU": 2}], {}, 0.0, 1, [Claim(1.5)], 0),
        ([{"CPU": 2}, {"CPU": 3}], {0.0: 2}, 0.0, 1, [Claim(1)], 2),
        ([{"CPU": 8, "GPU": 2}], {1.0: 1}, 1.0, 1, [Claim(1, 1)], 0),
        ([{"CPU": 8, "GPU": 2}], {0.25: 3}, 0.25, 1, [Claim(1, 1)], 1),
        ([{"CPU": 8, "GPU": 1}], {0.25: 4}, 0.25, 1, [Claim(1, 1)], 0),
        ([{"CPU": 8}, {"CPU": 8, "GPU": 1}], {}, 0.5, 2, [Claim(7, 0.5), Claim(7)], 0),
        ([{"CPU": 8, "GPU": 4}], {}, 2.0, 1, [], 2),
        ([{"CPU": 8, "GPU": 4}], {2.0: 1, 0.5: 1}, 2.0, 1, [], 0),
        ([{"CPU": 8, "GPU": 2}], {}, 0.25, 1, [], 8),
        ([{"CPU": 8, "GPU": 2}], {}, 0.3, 1, [], 6),
        ([{"CPU": 8, "GPU": 2}], {}, 0.6, 1, [], 2),
        ([{"CPU": 1, "GPU": 2}], {}, 0.5, 1, [], 1),
        ([{"CPU": 9, "GPU": 1}], {}, 1 / 3, 1, [], 3),
        ([{"CPU": 9, "GPU": 1}], {1 / 3: 2}, 1 / 3, 1, [], 1),
        ([{"CPU": 9, "GPU": 2}], {0.6: 1, 0.3: 1}, 1.0, 1, [], 1),
        ([{"CPU": 9, "GPU": 2}], {1.0: 1}, 0.5, 1, [], 2),
        ([{"CPU": 9}], {}, 0.5, 1, [], 0),
        ([{"CPU": 1.0}], {}, 0.0, 0.1, [], 10),
        ([], {}, 0.0, 1, [], 0),
        ([{"CPU": 2}], {0.0: 5}, 0.0, 1, [], 0),
    ],
)
def test_capacity_matches_an_exhaustive_search(
    machines: list[dict[str, float]],
    taken: dict[float, int],
    share: float,
    cpus: float,
    reserved: list[Claim],
    fits: int,
) -> None:
    assert room(machines, Counter(taken), share, cpus=cpus, reserved=reserved) == fits


@pytest.mark.parametrize(
    ("workers", "claims", "whole", "cpus", "too_many"),
    [
        (8, [], 8, 1, False),
        (8, [Claim(1)], 8, 1, True),
        (7, [Claim(1)], 8, 1, False),
        (4, [Claim(1), Claim(2)], 8, 1, False),
        (3, [Claim(1.5)], 4, 1, True),  # two and a half are left
        (2, [Claim(1)] * 8, 8, 1, True),
        (1, [Claim(1)] * 8, 8, 1, False),  # one worker may run beside builders
        (1, [Claim(8)], 8, 1, True),  # but not beside one that needs all CPUs
        (0, [Claim(8)], 8, 1, False),
    ],
)
def test_workers_give_up_the_cpus_that_builders_wait_for(
    workers: int, claims: list[Claim], whole: float, cpus: float, too_many: bool
) -> None:
    assert crowded(workers, claims, whole, cpus=cpus) == too_many
