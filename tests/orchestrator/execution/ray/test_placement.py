"""Long trials are placed first whatever their share, builders and GPU profiles before trials, and no worker is
replaced for a small gain."""

from __future__ import annotations

import math
import random

import pytest

from orchestrator.estimates.capacity import Claim
from orchestrator.estimates.gpus import WORKER_SECONDS, Cards, Tenant, outranks
from poisons import Store
from tests.orchestrator.rehearsal import Machine, Rehearsal


def machine(gpus: int, cpus: float = 16.0) -> list[Machine]:
    return [{"CPU": cpus, "GPU": float(gpus)}]


def test_a_long_trial_with_a_small_share_does_not_run_last(store: Store) -> None:
    """One GPU runs the long trial and the other the short ones, then both run the rest: no order is faster.
    Starting with the largest share would take 6000 s."""
    sweep = Rehearsal(store, machine(2), [(300.0, 1.0)] * 20 + [(3000.0, 0.25)])
    assert 4500 <= sweep.play() <= 4500 + 5 * WORKER_SECONDS
    assert sweep.workers.opened == 3


@pytest.mark.parametrize("cpus", [16, 2])
def test_a_trial_that_ran_out_of_memory_does_not_run_last(store: Store, cpus: int) -> None:
    """A worker or two must end to free the other half of the GPU, or a CPU."""
    trials = [(6000.0, 0.25)] + [(300.0, 0.25)] * 30
    sweep = Rehearsal(store, machine(1, cpus), trials, needs={0: 0.5})
    sweep.play()
    first, again = [one for one in sweep.started if one.seconds == 6000]
    assert (first.share, again.share) == (0.25, 0.5)
    assert again.when <= 60 + 300 + 2 * WORKER_SECONDS


@pytest.mark.parametrize("seed", range(3))
def test_mixed_shares_end_near_the_lower_bound_with_few_workers(store: Store, seed: int) -> None:
    """The bound for any order: the longest trial, or all of them filling both GPUs completely."""
    draw = random.Random(seed)
    trials = [(draw.uniform(60, 3600), draw.choice([0.25, 0.5])) for _ in range(40)]
    sweep = Rehearsal(store, machine(2), trials)
    bound = max(*(s for s, _ in trials), sum(s * share for s, share in trials) / 2)
    assert bound <= sweep.play() <= 1.1 * bound
    assert sweep.workers.opened <= 20


@pytest.mark.parametrize(("share", "gpus"), [(1.0, 1), (0.25, 1), (1.0, 2), (0.25, 2), (0.5, 3)])
def test_a_builder_that_needs_a_gpu_gets_one_as_soon_as_trials_end(
    store: Store, share: float, gpus: int
) -> None:
    """However the workers are spread over the GPUs, and although hours of trials are left."""
    sweep = Rehearsal(store, machine(gpus), [(300.0 + i, share) for i in range(50)])
    sweep.play(until=1000)
    sweep.claim(Claim(1, 1), 500.0)
    sweep.play(until=4000)
    (built,) = [one for one in sweep.started if one.seconds == 500]
    assert built.when <= 1000 + 400
    beside = [one for one in sweep.started if built.when < one.when < built.when + 500]
    assert bool(beside) == (gpus > 1), "the other GPUs stay busy"
    assert sweep.workers.opened <= 2 * gpus / share
    after = [one for one in sweep.started if one.when > built.when + 500 + WORKER_SECONDS]
    assert len({one.when for one in after}) > 1, "and this one is used again afterwards"


def test_a_builder_gets_its_cpus_even_if_it_needs_all(store: Store) -> None:
    sweep = Rehearsal(store, machine(0, cpus=2), [(300.0 + i, 0.0) for i in range(20)])
    sweep.play(until=400)
    sweep.claim(Claim(2), 500.0)
    sweep.play(until=2000)
    (built,) = [one for one in sweep.started if one.seconds == 500]
    assert built.when <= 400 + 320
    assert not [one for one in sweep.started if built.when < one.when < built.when + 500]


def test_short_trials_continue_while_a_long_one_cannot_be_placed(store: Store) -> None:
    """Reserving the GPU for the trial that needs all of it would idle three quarters until the first trial ends."""
    trials = [(9000.0, 0.25), (3000.0, 1.0)] + [(290.0, 0.25)] * 80
    sweep = Rehearsal(store, machine(1), trials)
    assert sweep.play() <= 9000 + 290 + 3000 + 290 + 4 * WORKER_SECONDS
    whole = next(one for one in sweep.started if one.share == 1.0)
    assert 9000 <= whole.when <= 9000 + 290 + 3 * WORKER_SECONDS


def test_no_more_workers_are_started_than_trials_may_run(store: Store) -> None:
    sweep = Rehearsal(store, machine(4), [(300.0, 0.5), (200.0, 0.25)] * 4, max_concurrent=2)
    sweep.play(until=5)
    assert len(sweep.workers.open) == 2
    sweep.play()
    assert len(sweep.started) == 8


def test_only_the_gpu_that_is_free_first_is_reserved() -> None:
    tenants = [Tenant("a", 0.5, 100.0), Tenant("a", 0.5, 900.0), Tenant("b", 1.0, 500.0)]
    assert Cards(2, tenants, now=50.0).wait(0.5) == 100.0, "one of two is enough"
    cards = Cards(2, tenants, now=50.0)
    assert [cards.wait(1.0), cards.wait(1.0), cards.wait(1.0)] == [500.0, 900.0, math.inf]
    assert cards.awaited == {"a": 900.0, "b": 500.0}


def test_a_share_that_fits_reserves_no_gpu() -> None:
    cards = Cards(2, [Tenant("a", 0.75, 100.0)], now=0.0)
    assert [cards.place(0.25), cards.place(1.0), cards.place(0.1)] == [True, True, False]
    assert cards.awaited == {}
    assert Cards(1, [], now=0.0).wait(1.0) == math.inf


def test_only_a_much_longer_trial_is_worth_a_new_worker() -> None:
    assert outranks(36_000, 300)
    assert not outranks(36_000, 20_000)
    assert not outranks(5, 1), "a worker takes longer to start"
