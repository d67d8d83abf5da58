"""Where memory does not suffice for all that runs, less runs at a time, until something runs alone."""

from __future__ import annotations

import math

from orchestrator.execution.pressure import CALM_SECONDS, Pressure
from tests.orchestrator.execution.test_progress import Clock


def test_one_kill_may_be_bad_luck_and_the_second_halves_what_runs() -> None:
    pressure = Pressure()
    assert not pressure.note("a", 8)
    assert not pressure.note("b", 8)
    assert pressure.most == math.inf
    assert pressure.note("a", 8)
    assert pressure.most == 4


def test_a_burst_of_kills_counts_once() -> None:
    """Those that are too many go on until their trials end."""
    pressure = Pressure()
    for name in "abcd" * 2:
        pressure.note(name, 8)
    assert pressure.most == 4


def test_what_is_killed_time_and_again_runs_alone_before_it_is_given_up() -> None:
    pressure = Pressure()
    found = [pressure.note("a", 100) and pressure.most for _ in range(5)]
    assert found == [False, 50, False, 1, False]
    assert Pressure().most == math.inf


def test_when_nothing_is_killed_for_a_while_more_may_run_again() -> None:
    """Something else had the memory; if it was the trials, the next kill halves them at once."""
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
