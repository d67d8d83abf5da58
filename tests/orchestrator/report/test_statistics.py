"""Intervals and p values agree with scipy, numpy and brute-force enumeration."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from orchestrator.report.statistics import (
    bootstrap_interval,
    sign_flip_p,
    smallest_p,
    t_interval,
    t_quantile,
    t_share,
)


def values(n: int, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).normal(0.8, 0.05, n).tolist()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_resamples_of_few_values_are_enumerated(n: int) -> None:
    found = values(n)
    means = sorted(sum(chosen) / n for chosen in itertools.product(found, repeat=n))
    tail = math.ceil(0.025 * len(means))  # so many resamples lie at an end or beyond it
    assert bootstrap_interval(found) == pytest.approx((means[tail - 1], means[-tail]))


def test_many_values_are_resampled_as_numpy_does() -> None:
    found = values(12)
    draws = np.random.default_rng(1).choice(found, (40_000, 12)).mean(1)
    spread = np.std(found, ddof=1) / 12**0.5
    assert bootstrap_interval(found) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.1 * spread)
    assert bootstrap_interval(found) == bootstrap_interval(found[::1]), "the same cell, the same interval"
    wide, narrow = bootstrap_interval(found, 0.99), bootstrap_interval(found, 0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_an_interval_covers_the_mean_in_three_of_four_cases_for_three_values_and_in_most_for_many() -> None:
    few = [bootstrap_interval(values(3, seed)) for seed in range(2000)]
    assert sum(low <= 0.8 <= high for low, high in few) / 2000 == pytest.approx(0.75, abs=0.04)
    many = [bootstrap_interval(values(20, seed)) for seed in range(60)]
    assert sum(low <= 0.8 <= high for low, high in many) >= 50


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 1001])
def test_students_t_agrees_with_scipy(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 0.1, 1.0, 2.5, 12.0, 300.0):
        assert t_share(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-13)
    for level in (0.5, 0.95, 0.999):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_a_t_interval_agrees_with_scipy() -> None:
    stats, found = pytest.importorskip("scipy.stats"), values(5)
    theirs = stats.t.interval(0.95, 4, np.mean(found), stats.sem(found))
    assert t_interval(found) == pytest.approx(theirs)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9, 12])
def test_all_sign_flips_of_few_pairs_are_counted(n: int) -> None:
    found = [value - 0.78 for value in values(n, n)]
    sums = [
        abs(sum(s * v for s, v in zip(signs, found, strict=True)))
        for signs in itertools.product((-1, 1), repeat=n)
    ]
    assert sign_flip_p(found) == sum(total >= abs(sum(found)) - 1e-12 for total in sums) / 2**n


@pytest.mark.parametrize("n", [5, 10])
def test_sign_flips_agree_with_scipy(n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = [value - 0.78 for value in values(n, 3)]
    theirs = stats.permutation_test(
        (found,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(found) == pytest.approx(theirs.pvalue)


def test_p_is_never_below_the_smallest_p_of_the_number_of_pairs() -> None:
    assert [sign_flip_p([0.1 + i for i in range(n)]) for n in (1, 2, 3, 6, 30)] == [
        smallest_p(n) for n in (1, 2, 3, 6, 30)
    ]
    assert smallest_p(3) == 0.25
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1
    assert sign_flip_p([0.1, -0.1]) == 1, "equal sums are equal, whatever they round to"
    assert sign_flip_p([0.3, 0.1, 0.2]) == 0.25


def test_random_sign_flips_of_many_pairs_are_reproducible() -> None:
    found = [value - 0.79 for value in values(40)]
    assert sign_flip_p(found) == sign_flip_p(found)
    draw = np.random.default_rng(0)
    sums = np.abs((draw.choice([-1, 1], (40_000, 40)) * found).sum(1))
    assert sign_flip_p(found) == pytest.approx((sums >= abs(sum(found))).mean(), abs=0.03)


def test_p_is_uniform_without_a_difference() -> None:
    draw = random.Random(0)
    found = [sign_flip_p([draw.gauss(0, 1) for _ in range(8)]) for _ in range(1000)]
    for level in (0.05, 0.2, 0.5):
        assert sum(p <= level for p in found) / 1000 == pytest.approx(
            math.floor(level * 128) / 128, abs=0.045
        )
