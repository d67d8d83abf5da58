"""Statistics of a few seeds: intervals of a mean, and a test of the difference of two, with few assumptions.
Pure Python, so that a report starts instantly."""

from __future__ import annotations

import json
import math
import random
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement

EXACT = 7  # up to this many values every resample is enumerated: 1,716 different ones
DRAWS = 4_000  # random resamples, or choices of signs, where there are too many to enumerate
ALL_SIGNS = 30  # up to this many pairs every choice of signs is counted, in two halves of 2**15


def bootstrap_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron, 1979): its ends are the smallest and the largest
    mean with at least (1 - level) / 2 of all resamples at or beyond them.

    Up to seven values, every resample is enumerated; beyond that, 4,000 are drawn from a generator seeded
    with the values, so that equal cells get equal intervals. For three values the interval is their range,
    which covers the true mean in three of four cases, not in 95 %: the sample is too small for more.
    """
    if len(values) <= EXACT:
        weighted = sorted((_mean(values, chosen), weight) for chosen, weight in _resamples(len(values)))
    else:
        draw = random.Random(json.dumps(sorted(values)))
        weighted = sorted((statistics.fmean(draw.choices(values, k=len(values))), 1) for _ in range(DRAWS))
    tail = (1 - level) / 2 * sum(weight for _, weight in weighted)
    return _at(weighted, tail), _at(weighted[::-1], tail)


@cache
def _resamples(n: int) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Every multiset of n indices out of n, with the number of ordered draws that give it."""
    found = []
    for chosen in combinations_with_replacement(range(n), n):
        ways = math.factorial(n)
        for index in set(chosen):
            ways //= math.factorial(chosen.count(index))
        found.append((chosen, ways))
    return tuple(found)


def _mean(values: Sequence[float], chosen: tuple[int, ...]) -> float:
    return math.fsum(values[index] for index in chosen) / len(chosen)


def _at(weighted: Sequence[tuple[float, int]], tail: float) -> float:
    """The first value at which the cumulative weight reaches the tail."""
    so_far = 0
    for value, weight in weighted:
        so_far += weight
        if so_far >= tail:
            return value
    raise AssertionError("weights sum to more than a tail")


def t_share(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's distribution with a whole number of degrees of freedom: the finite sums of
    Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@cache
def t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = level, by bisection to the last digit."""
    low, high = 0.0, 1.0
    while t_share(high, freedom) < level:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_share(middle, freedom) < level else (low, middle)
    return high


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of two or more normally distributed values."""
    mean, n = statistics.fmean(values), len(values)
    reach = t_quantile(level, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean - reach, mean + reach


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of a sign-flip permutation test of the mean of paired differences.

    The fraction of all 2**n choices of signs whose sum is at least as far from zero as the observed one.
    Exact up to 30 pairs; beyond that, 4,000 seeded draws and the observed one. Never below `smallest_p`.
    """
    observed = abs(math.fsum(differences)) - 1e-9 * math.fsum(map(abs, differences))  # equal sums stay equal
    if observed <= 0:
        return 1.0
    if len(differences) > ALL_SIGNS:
        draw = random.Random(json.dumps(list(differences)))
        sums = (math.fsum(d * draw.choice((-1, 1)) for d in differences) for _ in range(DRAWS))
        return (1 + sum(abs(total) >= observed for total in sums)) / (1 + DRAWS)
    half = len(differences) // 2
    left, right = _signed_sums(differences[:half]), sorted(_signed_sums(differences[half:]))
    beyond = sum(
        len(right) - bisect_left(right, observed - s) + bisect_right(right, -observed - s) for s in left
    )
    return beyond / 2 ** len(differences)


def smallest_p(pairs: int) -> float:
    """The smallest p that `sign_flip_p` can return: 0.25 for three pairs, 0.03 for six."""
    return float(2 ** (1 - pairs)) if pairs else 1.0


def _signed_sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums = [total + sign * value for total in sums for sign in (-1, 1)]
    return sums
