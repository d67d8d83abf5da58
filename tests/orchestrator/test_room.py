"""How many trials fit is what a search over all placements says, and no share spans two GPUs."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.costs.room import room


@pytest.mark.parametrize(
    ("machines", "taken", "share", "cpus", "reserved", "fits"),
    [
        ([{"CPU": 2}], {}, 0.0, 1, 0, 2),
        ([{"CPU": 2}], {0.0: 1}, 0.0, 1, 0, 1),
        ([{"CPU": 2}], {}, 0.0, 1, 1.5, 0),
        ([{"CPU": 2}, {"CPU": 3}], {0.0: 2}, 0.0, 1, 1, 2),
        ([{"CPU": 8, "GPU": 2}], {}, 0.25, 1, 0, 8),
        ([{"CPU": 8, "GPU": 2}], {}, 0.3, 1, 0, 6),
        ([{"CPU": 8, "GPU": 2}], {}, 0.6, 1, 0, 2),
        ([{"CPU": 1, "GPU": 2}], {}, 0.5, 1, 0, 1),
        ([{"CPU": 9, "GPU": 1}], {}, 1 / 3, 1, 0, 3),
        ([{"CPU": 9, "GPU": 1}], {1 / 3: 2}, 1 / 3, 1, 0, 1),
        ([{"CPU": 9, "GPU": 2}], {0.6: 1, 0.3: 1}, 1.0, 1, 0, 1),
        ([{"CPU": 9, "GPU": 2}], {1.0: 1}, 0.5, 1, 0, 2),
        ([{"CPU": 9}], {}, 0.5, 1, 0, 0),
        ([{"CPU": 1.0}], {}, 0.0, 0.1, 0, 10),
        ([], {}, 0.0, 1, 0, 0),
        ([{"CPU": 2}], {0.0: 5}, 0.0, 1, 0, 0),
    ],
)
def test_as_many_fit_as_do(
    machines: list[dict[str, float]],
    taken: dict[float, int],
    share: float,
    cpus: float,
    reserved: float,
    fits: int,
) -> None:
    assert room(machines, Counter(taken), share, cpus=cpus, reserved=reserved) == fits
