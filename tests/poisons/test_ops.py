"""The One-Pixel Shortcut search is exact: the same choice as a naive search, candidate by candidate, in exact
arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poisons.ops import Objective, Ops, colours, moments, search
from tests.conftest import CPU
from trainers import Images, InputError


def naive(images: Images, objective: Objective) -> list[tuple[int, int, tuple[int, ...]] | None]:
    """For each class the best free (row, column, colour), by the definition, in exact fractions."""
    _, c, h, w = images.x.shape
    palette = [tuple(int(v) for v in colour) for colour in colours(c)]
    taken, chosen = set(), []
    for k in range(images.num_classes):
        x = images.x[images.y == k].numpy().astype(np.int64)
        best, best_rank = None, None
        for row in range(h):
            for column in range(w):
                for colour in palette:
                    if len(x) == 0 or (row, column, colour) in taken:
                        continue
                    d = np.abs(x[:, :, row, column] - np.array(colour))
                    values = d.ravel() if objective == "released" else d.sum(1)
                    mean = Fraction(int(values.sum()), len(values))
                    variance = Fraction(int((values**2).sum()), len(values)) - mean**2
                    constant = variance == 0 and mean > 0
                    # mean / std or mean / variance: squares of what is positive are in the same order
                    score = 0 if variance == 0 else (mean**2 if objective == "released" else mean) / variance
                    rank = (constant, score, mean)
                    if best_rank is None or rank >= best_rank:  # later candidates win ties
                        best, best_rank = (row, column, colour), rank
        chosen.append(best)
        taken.add(best)
    return chosen


def found(images: Images, objective: Objective) -> list[tuple[int, int, tuple[int, ...]] | None]:
    pixels = search(moments(images), objective)
    triples = zip(pixels.row.tolist(), pixels.column.tolist(), pixels.colour.tolist(), strict=True)
    return [(r, c, tuple(v)) if r >= 0 else None for r, c, v in triples]


def made(x: np.ndarray, y: list[int], num_classes: int) -> Images:
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.tensor(y, dtype=torch.int64), num_classes)


OBJECTIVES: list[Objective] = ["released", "paper"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 24),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    levels=st.sampled_from([2, 3, 256]),
)
def test_the_search_agrees_with_a_naive_one(
    objective: Objective, seed: int, n: int, channels: int, size: tuple[int, int], levels: int
) -> None:
    assume(2**channels * size[0] * size[1] >= 3)  # a candidate for each of three classes
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, (n, channels, *size)) * (255 // (levels - 1))
    images = made(x, [int(v) for v in rng.integers(0, 3, n)], 3)
    assert found(images, objective) == naive(images, objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_shards_add_up(objective: Objective, images: Images) -> None:
    whole, cut = moments(images), torch.arange(40)
    parts = moments(images.take(cut[:13]), batch_size=3) + moments(images.take(cut[13:]))
    assert all(torch.equal(getattr(whole, f), getattr(parts, f)) for f in ("n", "first", "second"))
    assert torch.equal(search(whole, objective).row, search(parts, objective).row)


def test_the_two_objectives_differ() -> None:
    # pooled over channels, an even change of (9, 9) beats (18, 0); summed over channels, both are 18
    x = np.zeros((4, 2, 1, 2))
    x[:, :, 0, 0] = [[100, 101], [101, 100], [100, 101], [101, 100]]  # the sum over channels never varies
    x[:, :, 0, 1] = [[100, 100], [100, 100], [101, 101], [100, 100]]
    images = made(x, [0] * 4, 1)
    assert [found(images, o)[0][1] for o in OBJECTIVES] == [1, 0]  # type: ignore[index]
    assert [naive(images, o)[0][1] for o in OBJECTIVES] == [1, 0]  # type: ignore[index]


def test_a_constant_pixel_wins_if_the_colour_changes_it_and_never_if_not() -> None:
    x = np.random.default_rng(0).integers(1, 255, (9, 1, 2, 2))
    x[:, :, 0, 0] = 255  # white never: no change; black: the largest constant change there is
    x[:, :, 1, 1] = 200
    assert found(made(x, [0] * 9, 1), "released") == [(0, 0, (0,))]


def test_ties_go_to_the_last_candidate() -> None:
    images = made(np.zeros((3, 1, 2, 3)), [0, 0, 0], 1)
    assert found(images, "released") == [(1, 2, (255,))]
    assert found(images, "paper") == [(1, 2, (255,))]


def test_a_later_class_may_share_the_position_but_not_the_colour_too() -> None:
    x = np.random.default_rng(1).integers(90, 110, (8, 1, 1, 2))
    x[..., 1] = 255
    images = made(x, [0, 0, 0, 0, 1, 1, 1, 1], 2)
    first, second = found(images, "released")
    assert first == (0, 1, (0,))
    assert second is not None
    assert second != first
    assert second[:2] == (0, 0)  # white at (0, 1) would change nothing


def test_a_class_without_a_free_candidate_is_an_error() -> None:
    images = made(np.random.default_rng(0).integers(0, 255, (6, 1, 1, 1)), [0, 0, 1, 1, 2, 2], 3)
    with pytest.raises(InputError, match=r"class 2 finds no free pixel: .* all 2 candidates"):
        found(images, "paper")


def test_one_image_and_no_image_are_defined(images: Images) -> None:
    few = Images(images.x[:1], torch.tensor([1]), 3)
    choice = found(few, "released")
    assert choice[0] is None
    assert choice[2] is None
    assert choice == naive(few, "released")
    assert Ops().craft(few, seed=0, device=CPU).facts()["pixels"][0]["class"] == 1


def test_exactly_one_pixel_of_an_image_changes_to_its_class_colour(images: Images) -> None:
    perturbation = Ops().craft(images, seed=0, device=CPU)
    changed = (perturbation.apply(images).x != images.x).any(1).flatten(1).sum(1)
    assert changed.max() == 1
    for pixel in perturbation.facts()["pixels"]:
        mine = perturbation.apply(images).x[images.y == pixel["class"], :, pixel["row"], pixel["column"]]
        assert mine.unique(dim=0).tolist() == [pixel["colour"]]


def test_colours_are_ordered_as_binary_numbers() -> None:
    assert colours(3).tolist() == [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]


def test_numbers_that_would_overflow_are_refused(images: Images) -> None:
    m = moments(images)
    huge = type(m)(m.n * 10**6, m.first, m.second)
    with pytest.raises(OverflowError, match="exact 64-bit search"):
        search(huge, "released")


def test_the_choice_on_cifar10_is_the_naive_one_for_a_class(cifar10: dict[str, str]) -> None:
    from poisons.sources.parquet import Parquet

    images = Parquet.parse(cifar10, "test").load("test")
    airplanes = images.take((images.y == 0).nonzero().squeeze(1)[:200])
    for objective in OBJECTIVES:
        assert found(airplanes, objective)[0] == naive(airplanes, objective)[0]
