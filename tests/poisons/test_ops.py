"""The One-Pixel Shortcut search is exact: the same choice as a naive search, candidate by candidate, in exact
arithmetic; and it takes the pixels that the released code takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from poisons import CraftContext
from poisons.base import Tensors
from poisons.methods.moments import Moments, moments
from poisons.methods.ops import Ops
from poisons.methods.pixel_search import Exclusion, Further, Objective, _order, colours, ranking, search
from poisons.perturbations.chain import Chain
from poisons.perturbations.delta import Delta
from poisons.perturbations.pixel_write import PixelWrite
from poisons.stratify import stratified
from trainers import Images, InputError
from trainers.images import Extent

Pixel = tuple[int, int, tuple[int, ...]]
OBJECTIVES: list[Objective] = list(get_args(Objective))
EXCLUSIONS: list[Exclusion] = list(get_args(Exclusion))


def worth(x: np.ndarray, pixel: Pixel, objective: Objective) -> tuple[Any, ...]:
    """What makes a candidate better than another for the images `x` of a class, by the definition."""
    row, column, colour = pixel
    d = np.abs(x[:, :, row, column] - np.array(colour))
    values = d.ravel() if objective == "released" else d.sum(1)
    mean = Fraction(int(values.sum()), len(values))
    variance = Fraction(int((values**2).sum()), len(values)) - mean**2
    if objective == "art":
        unit = 255 * x.shape[1]
        first = (*(-v for v in colour), -row, -column)
        return mean / unit - variance / unit**2, first
    # mean / std or mean / variance: squares of what is positive are in the same order
    score = 0 if variance == 0 else (mean**2 if objective == "released" else mean) / variance
    return variance == 0 and mean > 0, score, mean, pixel


def candidates(images: Images) -> list[Pixel]:
    _, c, h, w = images.x.shape
    palette = [tuple(int(v) for v in colour) for colour in colours(c)]
    return [(row, column, colour) for row in range(h) for column in range(w) for colour in palette]


def naive(
    images: Images,
    objective: Objective,
    pixels: int = 1,
    further: Further = "ranked",
    exclusion: Exclusion = "candidate",
) -> list[list[Pixel]] | None:
    """For each class its pixels (row, column, colour), best first; None if a class finds too few."""
    ordered = {}
    for k in images.y.unique().tolist():
        x = images.x[images.y == k].numpy().astype(np.int64)
        ordered[k] = sorted(candidates(images), key=lambda pixel: worth(x, pixel, objective), reverse=True)
    chosen: list[list[Pixel]] = [[] for _ in range(images.num_classes)]

    def free(pixel: Pixel, k: int) -> bool:
        others = [other for j in ordered if j != k for other in chosen[j]]
        if further == "nested" and any(pixel[:2] == mine[:2] for mine in chosen[k]):
            return False
        if exclusion == "position":
            return pixel[:2] not in [other[:2] for other in others]
        return exclusion == "none" or pixel not in others

    turns = [k for k in ordered for _ in range(pixels)] if further == "ranked" else [*ordered] * pixels
    for k in turns:
        best = [pixel for pixel in ordered[k] if free(pixel, k) and pixel not in chosen[k]][:1]
        if not best:
            return None
        chosen[k] += best
    return chosen


def listed(found: PixelWrite) -> list[list[Pixel]]:
    """The pixels of each class, best first."""
    classes = zip(found.row.tolist(), found.column.tolist(), found.colour.tolist(), strict=True)
    return [[(r, c, tuple(v)) for r, c, v in zip(*pixels, strict=True) if r >= 0] for pixels in classes]


def found(images: Images, *how: Any, **more: Any) -> list[list[Pixel]] | None:
    try:
        return listed(search(moments(images), *how, **more))
    except InputError:
        return None


def one(images: Images, objective: Objective) -> list[Pixel | None]:
    """One pixel of each class."""
    pixels = found(images, objective)
    assert pixels is not None
    return [mine[0] if mine else None for mine in pixels]


def made(x: np.ndarray, y: list[int], num_classes: int) -> Images:
    return Images(torch.from_numpy(x.astype(np.uint8)), torch.tensor(y, dtype=torch.int64), num_classes)


def noisy(seed: int, n: int, classes: int, shape: tuple[int, int, int]) -> Images:
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape))
    return made(x, [i % classes for i in range(n)], classes)


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


@pytest.mark.parametrize("further", get_args(Further))
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    objective=st.sampled_from(OBJECTIVES),
    exclusion=st.sampled_from(EXCLUSIONS),
    pixels=st.integers(1, 6),
    channels=st.integers(1, 2),
    size=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    levels=st.sampled_from([1, 2, 3, 256]),
)
def test_several_pixels_agree_with_a_naive_search(
    further: Further,
    seed: int,
    objective: Objective,
    exclusion: Exclusion,
    pixels: int,
    channels: int,
    size: tuple[int, int],
    levels: int,
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels, (9, channels, *size)) * (255 // max(1, levels - 1))
    images = made(x, [int(v) for v in rng.integers(0, 3, 9)], 4)
    expected = naive(images, objective, pixels, further, exclusion)
    assert found(images, objective, pixels=pixels, further=further, exclusion=exclusion) == expected


def as_released(images: Images, pixels: int) -> tuple[torch.Tensor, list[list[int]]]:
    """What the released code does, in float64: the last entries of an argsort of the scores, the last first;
    a pair that an earlier class has taken scores 0. The images, and each class's flat indices."""
    x = images.x.numpy().astype(np.float64).transpose(0, 2, 3, 1) / 255
    out, taken, chosen = images.x.clone(), list[tuple[int, int]](), list[list[int]]()
    _, height, width, _ = x.shape
    palette = colours(x.shape[3]).numpy() / 255
    for k in range(images.num_classes):
        mine = images.y == k
        table = np.zeros((height * width, len(palette)))
        for position in range(height * width):
            for v, colour in enumerate(palette):
                distance = np.abs(x[mine][:, position // width, position % width] - colour)
                free = (position, v) not in taken
                table[position, v] = distance.mean() / distance.std() if free else 0
        best = np.argsort(table.ravel())[::-1][:pixels].tolist()
        for i in best:
            position, v = divmod(i, len(palette))
            taken.append((position, v))
            colour = torch.from_numpy(palette[v] * 255).to(torch.uint8)
            out[mine, :, position // width, position % width] = colour
        chosen.append(best)
    return out, chosen


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), pixels=st.integers(1, 20))
def test_several_pixels_are_those_of_the_released_code(seed: int, pixels: int) -> None:
    images = noisy(seed, 3 * 40, 3, (3, 3, 4))
    for k in range(3):
        x = images.x[images.y == k].numpy().astype(np.int64)
        scores = {worth(x, pixel, "released")[1] for pixel in candidates(images)}
        assume(len(scores) == 3 * 4 * 8)  # what comes first of a tie is not defined there
    expected, _ = as_released(images, pixels)
    assert torch.equal(Ops(pixels=pixels).craft(images, seed=0).apply(images).x, expected)


def test_collisions_match_the_released_code() -> None:
    images = noisy(0, 3 * 40, 3, (3, 2, 3))
    images.x[images.y == 2] = images.x[images.y == 0]  # what the first class takes, the last wants as well
    expected, chosen = as_released(images, 6)
    positions = [[i // 8 for i in mine] for mine in chosen]
    assert any(len(set(mine)) < 6 for mine in positions), "a position is used twice, in two colours"
    assert chosen[0][0] not in chosen[2], "a later class loses its best pixel to an earlier one"
    pixels = Ops(pixels=6).craft(images, seed=0)
    assert torch.equal(pixels.apply(images).x, expected)
    first = next(k for k, mine in enumerate(positions) if len(set(mine)) < 6)
    listed = [pixel for pixel in pixels.facts()["pixels"] if pixel["class"] == first]
    last = {(pixel["row"], pixel["column"]): pixel["colour"] for pixel in listed}
    assert len(last) < len(listed) == 6
    for (row, column), colour in last.items():
        assert expected[images.y == first, :, row, column].unique(dim=0).tolist() == [colour]


@pytest.mark.parametrize("exclusion", EXCLUSIONS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), levels=st.sampled_from([2, 256]))
def test_nested_pixels_hold_those_of_fewer(exclusion: Exclusion, seed: int, levels: int) -> None:
    x = np.random.default_rng(seed).integers(0, levels, (12, 2, 4, 5))
    images = made(x, [0, 1, 2] * 4, 3)
    few: list[list[Pixel]] = [[], [], []]
    for pixels in range(1, 7):
        more = found(images, pixels=pixels, further="nested", exclusion=exclusion)
        assert more is not None
        assert [mine[:-1] for mine in more] == few
        assert all(len({pixel[:2] for pixel in mine}) == pixels for mine in more)
        few = more


def test_exclusion_defines_what_a_later_class_may_not_use() -> None:
    x = np.random.default_rng(0).integers(0, 256, (8, 1, 3, 3))
    twins = made(np.concatenate([x, x]), [0] * 8 + [1] * 8, 2)
    free, candidate, position = (found(twins, exclusion=e) for e in ("none", "candidate", "position"))
    assert free is not None
    assert candidate is not None
    assert position is not None
    assert free[0] == free[1]
    assert candidate[0] == free[0] != candidate[1]
    assert position[0] == free[0]
    assert position[0][0][:2] != position[1][0][:2]


def test_a_class_skips_all_colours_of_the_positions_that_others_took() -> None:
    # both colours are good where the noise is small, so that whole positions follow one another
    spread = np.array([1, 2, 4, 8, 16, 32])
    x = 127 + spread * np.random.default_rng(0).choice([-1, 1], (40, 1, 1, 6))
    images = made(np.concatenate([x] * 5), [i // 40 for i in range(200)], 5)
    for further in get_args(Further):
        positions = found(images, exclusion="position", further=further)
        assert positions == naive(images, "released", 1, further, "position")
        assert [mine[0][1] for mine in positions or []] == [0, 1, 2, 3, 4]


def test_the_two_objectives_of_the_paper_differ() -> None:
    # pooled over channels, an even change of (9, 9) beats (18, 0); summed over channels, both are 18
    x = np.zeros((4, 2, 1, 2))
    x[:, :, 0, 0] = [[100, 101], [101, 100], [100, 101], [101, 100]]  # the sum over channels never varies
    x[:, :, 0, 1] = [[100, 100], [100, 100], [101, 101], [100, 100]]
    images = made(x, [0] * 4, 1)
    for objective, column in (("released", 1), ("paper", 0)):
        assert one(images, objective)[0][1] == column  # type: ignore[index,arg-type]
        assert naive(images, objective)[0][0][1] == column  # type: ignore[index,arg-type]


def test_the_toolboxs_objective_is_a_difference_and_ties_go_to_its_first_colour() -> None:
    x = np.zeros((2, 1, 1, 3))
    x[:, 0, 0] = [[0, 128, 255], [255, 128, 255]]  # white and black are equally far on average from the first
    images = made(x, [0, 0], 1)
    assert one(images, "art") == [(0, 2, (0,))]  # constant, and farthest: 1 - 0
    assert one(made(x[..., :1], [0, 0], 1), "art") == [(0, 0, (0,))]
    assert one(made(x[..., :1], [0, 0], 1), "released") == [(0, 0, (255,))]
    grey = made(np.full((2, 1, 2, 2), 255), [0, 0], 1)
    assert one(grey, "art") == [(0, 0, (0,))]


def test_a_constant_pixel_wins_if_the_colour_changes_it_and_never_if_not() -> None:
    x = np.random.default_rng(0).integers(1, 255, (9, 1, 2, 2))
    x[:, :, 0, 0] = 255  # white never: no change; black: the largest constant change there is
    x[:, :, 1, 1] = 200
    assert one(made(x, [0] * 9, 1), "released") == [(0, 0, (0,))]


def test_ties_go_to_the_last_candidate() -> None:
    images = made(np.zeros((3, 1, 2, 3)), [0, 0, 0], 1)
    assert one(images, "released") == [(1, 2, (255,))]
    assert one(images, "paper") == [(1, 2, (255,))]


def test_more_pixels_than_an_image_has_are_refused_before_the_search() -> None:
    for further, most in (("ranked", 128), ("nested", 64)):
        Ops(pixels=most, further=further).check(Extent(100, (1, 8, 8), 2))
        with pytest.raises(InputError, match=f"images of 8x8 have room for {most}: write fewer"):
            Ops(pixels=most + 1, further=further).check(Extent(100, (1, 8, 8), 2))


def test_a_later_class_may_share_the_position_but_not_the_colour_too() -> None:
    x = np.random.default_rng(1).integers(90, 110, (8, 1, 1, 2))
    x[..., 1] = 255
    images = made(x, [0, 0, 0, 0, 1, 1, 1, 1], 2)
    first, second = one(images, "released")
    assert first == (0, 1, (0,))
    assert second is not None
    assert second != first
    assert second[:2] == (0, 0)  # white at (0, 1) would change nothing


def test_a_class_that_finds_too_few_candidates_is_an_error() -> None:
    images = made(np.random.default_rng(0).integers(0, 255, (6, 1, 1, 1)), [0, 0, 1, 1, 2, 2], 3)
    with pytest.raises(InputError, match="class 2 finds 0 of 1 pixels: all 2 candidates are taken"):
        search(moments(images), "paper")
    for further, most in (("nested", 1), ("ranked", 2)):
        with pytest.raises(InputError, match=f"class 1 finds {most} of {most + 1} pixels"):
            Ops(pixels=most + 1, further=further).craft(images.take(torch.tensor([2, 3])), seed=0)
    assert len(Ops(exclusion="none").craft(images, seed=0).facts()["pixels"]) == 3


def test_one_image_and_no_image_are_defined(images: Images) -> None:
    few = Images(images.x[:1], torch.tensor([1]), 3)
    choice = one(few, "released")
    assert choice[0] is None
    assert choice[2] is None
    assert found(few, "released") == naive(few, "released")
    facts = Ops(pixels=2).craft(few, seed=0).facts()["pixels"]
    assert [pixel["class"] for pixel in facts] == [1, 1]
    nothing = Images(images.x[:0], images.y[:0], 3)
    assert Ops().craft(nothing, seed=0).facts() == {"pixels": []}


def test_exactly_one_pixel_of_an_image_changes_to_its_class_colour(images: Images) -> None:
    perturbation = Ops().craft(images, seed=0)
    changed = (perturbation.apply(images).x != images.x).any(1).flatten(1).sum(1)
    assert changed.max() == 1
    for pixel in perturbation.facts()["pixels"]:
        mine = perturbation.apply(images).x[images.y == pixel["class"], :, pixel["row"], pixel["column"]]
        assert mine.unique(dim=0).tolist() == [pixel["colour"]]


def test_colours_are_ordered_as_binary_numbers() -> None:
    assert colours(3).tolist() == [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_counts_that_would_overflow_are_refused_and_the_largest_safe_ones_are_not(
    objective: Objective,
) -> None:
    n, c = 3_333_333, 3
    white = Moments(
        torch.tensor([n]), torch.full((1, c, 1, 2), 255 * n), torch.full((1, 6, 1, 2), 255 * 255 * n)
    )
    best = listed(search(white, objective))[0][0]
    assert best[2] == (0, 0, 0)
    with pytest.raises(InputError, match="exact 64-bit search takes 3333333"):
        search(Moments(white.n + 1, white.first, white.second), objective)


def test_exact_arithmetic_decides_where_floats_are_wrong() -> None:
    top = torch.tensor([5702626625780437638, 3921590330702765815])
    bottom = torch.tensor([7122172039328690, 4897785325233453])
    exact = [Fraction(int(a), int(b)) for a, b in zip(top, bottom, strict=True)]
    rounded = (top.double() / bottom.double()).tolist()
    assert exact[0] < exact[1]
    assert rounded[0] > rounded[1]
    assert _order(top, bottom, torch.tensor([1, 1]), torch.tensor([0, 1]), 2) == [1, 0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ranking_in_blocks_gives_the_same_candidates(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).integers(0, 3, (6, 2, 5, 7)) * 127
    sums = moments(made(x, [0] * 6, 1))
    whole = ranking(sums, 0, objective, 30)
    monkeypatch.setattr("poisons.methods.pixel_search.BLOCK", 4 * 3)
    assert ranking(sums, 0, objective, 30) == whole


def test_a_hundred_pixels_of_ten_classes_are_found_quickly() -> None:
    images = noisy(0, 200, 10, (3, 32, 32))
    sums, start = moments(images), time.perf_counter()
    for further in get_args(Further):
        assert search(sums, pixels=100, further=further).row.shape == (10, 100)
    flat = moments(Images(images.x * 0, images.y, 10))  # all candidates tie
    search(flat, pixels=100)
    assert time.perf_counter() - start < 5


def counting(kept: dict[str, Tensors]) -> CraftContext:
    """A context that keeps what is made."""

    def cache(name: str, make: Callable[[], Tensors]) -> Tensors:
        if name not in kept:
            kept[name] = make()
        return kept[name]

    return CraftContext(cache=cache)


def test_one_pass_serves_every_objective_and_number_of_pixels(images: Images) -> None:
    kept: dict[str, Tensors] = {}
    plain = Ops().craft(images, seed=0)
    assert torch.equal(
        plain.columns()["row"], Ops().craft(images, seed=0, context=counting(kept)).columns()["row"]
    )
    blank = Images(torch.zeros_like(images.x), images.y, images.num_classes)  # a second pass would show
    for objective in OBJECTIVES:
        for pixels in (1, 3):
            ops = Ops(objective=objective, pixels=pixels)
            again = ops.craft(blank, seed=7, context=counting(kept))
            assert torch.equal(again.columns()["row"], ops.craft(images, seed=7).columns()["row"])
    assert list(kept) == ["moments"]
    for fraction, seed in ((0.5, 0), (0.5, 1), (0.25, 0), (0.25, 0)):
        Ops(search_fraction=fraction).craft(images, seed=seed, context=counting(kept))
    assert list(kept)[1:] == [
        "moments-fraction-0.5-seed-0",
        "moments-fraction-0.5-seed-1",
        "moments-fraction-0.25-seed-0",
    ]


@settings(deadline=None, max_examples=30)
@given(
    labels=st.lists(st.integers(0, 4), max_size=60),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 9),
)
def test_a_smaller_share_lies_inside_a_larger_and_holds_each_class(
    labels: list[int], shares: tuple[float, float], seed: int
) -> None:
    y = torch.tensor(labels, dtype=torch.int64)
    small, large = (stratified(y, 6, s, torch.Generator().manual_seed(seed)) for s in sorted(shares))
    assert not (small & ~large).any()
    for k in range(6):
        n = int((y == k).sum())
        assert int(small[y == k].sum()) == (max(1, round(min(shares) * n)) if n else 0)
    assert stratified(y, 6, 1.0, torch.Generator().manual_seed(seed)).all()


def test_a_fraction_is_searched_and_all_images_changed(images: Images) -> None:
    searched = Ops(search_fraction=0.3).craft(images, seed=3)
    changed = (searched.apply(images).x != images.x).flatten(1).any(1)
    assert changed.sum() >= 38  # a pixel may have its colour already
    rows = {
        seed: Ops(search_fraction=0.3).craft(images, seed=seed).columns()["row"].tolist() for seed in range(4)
    }
    assert len({str(row) for row in rows.values()}) == 4, "another seed, other images, other pixels"
    least = Ops(search_fraction=1e-6).craft(images, seed=0)  # one image of each class
    assert len(least.facts()["pixels"]) == 4
    whole = Ops().craft(images, seed=0).columns()["row"]
    assert torch.equal(whole, Ops(search_fraction=0.999).craft(images, seed=5).columns()["row"])


@pytest.mark.parametrize(("eps", "levels"), [("8/255", 8), ("1/1", 255)])
def test_uploaded_noise_lies_outside_the_fraction_within_its_budget(
    images: Images, eps: str, levels: int
) -> None:
    ops = Ops.parse({"search_fraction": 0.3, "upload_noise": eps}, "test")
    assert not ops.transfers
    assert Ops(search_fraction=0.3).transfers
    chain = ops.craft(images, seed=1)
    assert isinstance(chain, Chain)
    noise, pixels = chain.links
    assert isinstance(noise, Delta)
    quiet = Ops(search_fraction=0.3).craft(images, seed=1)
    assert torch.equal(pixels.columns()["row"], quiet.columns()["row"])
    inside = (noise.delta == 0).flatten(1).all(1)
    assert inside.sum() == 12
    assert torch.bincount(images.y[inside]).tolist() == [3, 3, 3, 3]
    outside = noise.delta[~inside]
    assert outside.max() == -outside.min() == levels
    assert (outside.float().mean() / levels).abs() < 0.02
    assert torch.equal(chain.apply(images).x, quiet.apply(noise.apply(images)).x), "the pixel last"
    assert torch.equal(noise.delta, ops.craft(images, seed=1).links[0].columns()["delta"])  # type: ignore[attr-defined]
    assert chain.facts() == quiet.facts()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upload_noise": "8/255"}, "give a `search_fraction` below 1 too"),
        (
            {"upload_noise": "1/300", "search_fraction": 0.1},
            "must be between 1/255 .* found 1/300; write 8/255",
        ),
        ({"upload_noise": 0.03, "search_fraction": 0.1}, "a budget is a fraction"),
        ({"search_fraction": 0}, "greater than 0"),
        ({"search_fraction": 1.1}, "less than or equal to 1"),
        ({"pixels": 0}, "greater than or equal to 1|greater than 0"),
        ({"objective": "ART"}, "'released', 'paper' or 'art'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ops.parse(settings, "test")


def test_the_choice_on_cifar10_is_the_naive_one_for_a_class(cifar10: dict[str, str]) -> None:
    from poisons.sources.parquet import Parquet

    images = Parquet.parse(cifar10, "test").load("test")
    airplanes = images.take((images.y == 0).nonzero().squeeze(1)[:200])
    for objective in OBJECTIVES:
        assert found(airplanes, objective) == naive(airplanes, objective)
