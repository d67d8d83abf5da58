"""Random noise is uniform within its budget, and the same for a class or its own for each image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from poisons import DataSpec, Poison
from poisons.perturbations.random_levels import RandomLevels
from trainers import Images, InputError
from trainers.stored import DamagedError


def grey(n: int) -> Images:
    return Images(torch.full((n, 3, 16, 16), 128, dtype=torch.uint8), torch.arange(n) % 4, 4)


def noise(settings: dict[str, Any], n: int = 40, seed: int = 0) -> torch.Tensor:
    images = grey(n)
    perturbation = Poison.parse({"kind": "random_noise", **settings}, "test").craft(images, seed=seed)
    return perturbation.apply(images).x.int() - 128


def test_class_wise_noise_is_one_for_a_class() -> None:
    found = noise({})
    for k in range(4):
        assert (found[k::4] == found[k]).all()
    assert len(found[:4].flatten(1).unique(dim=0)) == 4
    assert not torch.equal(found, noise({}, seed=1))


def test_sample_wise_noise_is_one_for_each_image() -> None:
    assert len(noise({"granularity": "sample_wise"}).flatten(1).unique(dim=0)) == 40


def test_sample_wise_noise_depends_on_the_image_and_the_seed_alone() -> None:
    """So that any part of a data set can be made by itself."""
    images, poison = grey(40), Poison.parse({"kind": "random_noise", "granularity": "sample_wise"}, "test")
    crafted, rows = poison.craft(images, seed=0), torch.tensor([31, 2, 17])
    assert torch.equal(crafted.apply(images.take(rows), rows).x, crafted.apply(images).x[rows])
    assert not torch.equal(crafted.apply(images).x, poison.craft(images, seed=1).apply(images).x)


def test_sample_wise_noise_is_stored_as_the_levels_that_it_is_drawn_from() -> None:
    """Which are few, where its values may not fit into memory."""
    for values, levels in (("uniform", [*range(-8, 9)]), ("signs", [-8, 8])):
        settings = {"kind": "random_noise", "granularity": "sample_wise", "values": values}
        crafted = Poison.parse(settings, "test").craft(grey(40), seed=0)
        assert {name: column.tolist() for name, column in crafted.columns().items()} == {"levels": levels}


def test_sample_wise_noise_fits_only_its_images() -> None:
    crafted = Poison.parse({"kind": "random_noise", "granularity": "sample_wise"}, "test").craft(
        grey(40), seed=0
    )
    for rows in (torch.tensor([40]), torch.tensor([-1]), torch.tensor([0, 1]), None):
        with pytest.raises(InputError, match="random noise for 40 images of"):
            crafted.apply(grey(1), rows)
    with pytest.raises(InputError, match="cannot be applied"):
        crafted.apply(Images(torch.zeros(40, 1, 16, 16, dtype=torch.uint8), torch.arange(40) % 4, 4))


LEVELS, VALUES = torch.tensor([-8, 8], dtype=torch.int8), {"images": 4, "shape": [3, 8, 8], "seed": 0}


@pytest.mark.parametrize(
    ("levels", "values"),
    [
        (LEVELS.float(), VALUES),
        (LEVELS[:0], VALUES),
        (LEVELS[None], VALUES),
        (torch.tensor([-256], dtype=torch.int16), VALUES),
        (torch.tensor([-(2**15)], dtype=torch.int16), VALUES),
        (LEVELS, {**VALUES, "images": 0}),
        (LEVELS, {**VALUES, "shape": [8, 8]}),
        (LEVELS, {**VALUES, "per": "image"}),
        (LEVELS, {}),
    ],
)
def test_damaged_random_levels_are_refused(levels: torch.Tensor, values: dict[str, Any]) -> None:
    whole = RandomLevels.restore({"levels": torch.tensor([-128], dtype=torch.int8)}, VALUES)
    assert whole.shape == (3, 8, 8)
    with pytest.raises(DamagedError):
        RandomLevels.restore({"levels": levels}, values)


@pytest.mark.parametrize(
    ("eps", "low", "high"), [("8/255", -8, 8), ("1/2", -127, 127), ("200/255", -128, 127)]
)
def test_uniform_noise_reaches_both_ends_of_the_budget(eps: str, low: int, high: int) -> None:
    """Or black and white."""
    found = noise({"granularity": "sample_wise", "eps": eps}, n=200)
    assert (int(found.min()), int(found.max())) == (low, high)


def test_uniform_noise_has_all_levels_equally_often() -> None:
    found = noise({"granularity": "sample_wise"}, n=200)
    counts = (found + 8).flatten().bincount().double() / found.numel()
    assert counts == pytest.approx(torch.full((17,), 1 / 17).double(), abs=0.004)


def test_signs_have_only_the_two_ends() -> None:
    found = noise({"values": "signs", "granularity": "sample_wise"})
    assert found.unique().tolist() == [-8, 8]
    assert abs(found.double().mean()) < 0.1


@pytest.mark.parametrize("eps", ["0", "1/510", "129"])
def test_a_budget_below_a_level_or_above_the_range_is_refused(eps: str) -> None:
    with pytest.raises(InputError, match=r"eps must be between 1/255 \(one level\) and 1"):
        Poison.parse({"kind": "random_noise", "eps": eps}, "test")


def test_only_class_wise_noise_can_be_crafted_on_other_images() -> None:
    spec = {"poison": {"kind": "random_noise"}, "crafted_on": "digits"}
    DataSpec.parse(spec, "test")
    with pytest.raises(InputError, match="is one change per image"):
        DataSpec.parse({**spec, "poison": {"kind": "random_noise", "granularity": "sample_wise"}}, "test")
