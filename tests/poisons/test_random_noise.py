"""Random noise is uniform within its budget, and the same for a class or its own for each image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from poisons import DataSpec, Poison
from trainers import Images, InputError


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
