"""If memory does not suffice for all workers, fewer run at a time, down to one."""

from __future__ import annotations

import math

from orchestrator.execution.pressure import CALM_SECONDS, Pressure
from tests.orchestrator.execution.test_progress import Clock


def test_the_second_kill_of_a_trial_halves_the_number_of_workers() -> None:
    pressure = Pressure()
    assert not pressure.note("a", 8)
    assert not pressure.note("b", 8)
    assert pressure.most == math.inf
    assert pressure.note("a", 8)
    assert pressure.most == 4


def test_a_burst_of_kills_counts_once() -> None:
    """Surplus workers continue until their trials end."""
    pressure = Pressure()
    for name in "abcd" * 2:
        pressure.note(name, 8)
    assert pressure.most == 4


def test_a_repeatedly_killed_trial_runs_alone_before_it_is_given_up() -> None:
    pressure = Pressure()
    found = [pressure.note("a", 100) and pressure.most for _ in range(5)]
    assert found == [False, 50, False, 1, False]
    assert Pressure().most == math.inf


def test_the_limit_rises_again_after_a_while_without_kills() -> None:
    """Another process may have used the memory; if it was the trials, the next kill halves the limit at once."""
    clock = Clock()
    pressure = Pressure(lambda: clock.time)
    for _ in range(2):
        pressure.note("a", 8)
    clock.time += CALM_SECONDS - 1
    assert pressure.most == 4
    clock.time += 1
    assert pressure.most == 8
    assert pressure.note("b", 8)
    assert pressure.most == 4
    clock.time += 1000 * CALM_SECONDS
    assert pressure.most > 1e9
