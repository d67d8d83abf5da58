"""Short trainings travel together, long ones alone, and the last ones are spread over the slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.execution.bundles import BUNDLE_SECONDS, MOST, PARTS, bundle_size
from orchestrator.execution.pace import Pace


@pytest.mark.parametrize(
    ("seconds", "slots", "size"),
    [
        ([600.0] * 9, 2, 1),
        ([10.0] * 100, 2, 3),
        ([1.0] * 1000, 2, 30),
        ([0.0] * 1000, 2, MOST),
        ([1.0] * 16, 2, 4),
        ([1.0] * 3, 2, 1),
        ([100.0] + [1.0] * 1000, 2, 1),
        ([], 2, 1),
    ],
)
def test_the_size_of_a_bundle(seconds: list[float], slots: int, size: int) -> None:
    assert bundle_size(seconds, slots) == size


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=200), st.integers(1, 64))
def test_a_bundle_is_never_too_long(seconds: list[float], slots: int) -> None:
    size = bundle_size(seconds, slots)
    assert 1 <= size <= min(MOST, len(seconds))
    whole = sum(seconds[:size])
    assert size == 1 or whole <= min(BUNDLE_SECONDS, sum(seconds) / (PARTS * slots)) * (1 + 1e-9) + 1e-9


def test_expected_durations_follow_finished_trainings_of_the_same_recipe() -> None:
    pace = Pace({"a": 2.0, "b": 4.0, "c": 2.0}, {"a": "small", "b": "small", "c": "large"})
    assert not pace.known("a")
    pace.took("a", 20.0)
    assert pace.known("b")
    assert not pace.known("c")
    assert [pace.expected(key) for key in "abc"] == [20.0, 40.0, 2.0]
    pace.took("b", 20.0)  # half as slow as the first, which also opened the data
    assert pace.expected("a") == pytest.approx(15.0)
    assert Pace({}, {}, learned=True).known("anything")
