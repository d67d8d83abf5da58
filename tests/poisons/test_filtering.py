"""Class-wise filters: CUDA with its controls, and the line filters, against scipy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch

from poisons import DataSpec, Poison, Store
from poisons.methods.cuda import Cuda, random_filters
from poisons.methods.line_filters import Huda, Vuda, random_lines, scalar_lines
from poisons.methods.tap import Tap
from poisons.perturbations.filtering import Filtering
from trainers import Images, InputError
from trainers.images import Extent
from trainers.stored import DamagedError


def by_scipy(image: np.ndarray[Any, Any], kernel: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = np.stack([scipy.signal.correlate2d(c.astype(float), kernel, mode="same") for c in image])
    return np.floor(out / out.max() * 255)


@pytest.mark.parametrize(
    "poison", [Cuda(), Cuda(kernel_size=9, blur=0.06), Vuda(), Huda(), Vuda(variant="scalar")]
)
def test_images_are_correlated_with_the_filter_of_their_class(poison: Poison, images: Images) -> None:
    crafted = poison.craft(images, seed=3)
    assert isinstance(crafted, Filtering)
    out = crafted.apply(images)
    for i in range(0, len(images), 7):
        wanted = by_scipy(images.x[i].numpy(), crafted.filters[images.y[i]].numpy())
        off = np.abs(out.x[i].numpy().astype(float) - wanted)
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3  # sums in another order, at the edge of a level
    assert (out.x.amax((1, 2, 3)) == 255).all()


def test_large_images_are_filtered_whole_though_some_channels_are_summed_at_a_time() -> None:
    """A part of the work here is six channels: it ends within an image."""
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(256, (5, 4, 97, 101), generator=gen, dtype=torch.uint8)
    images = Images(x, torch.tensor([2, 0, 1, 1, 2]), 3)
    filters = torch.rand((3, 5, 3), generator=gen, dtype=torch.float64)
    found = Filtering(filters).apply(images)
    for i in range(len(images)):
        wanted = by_scipy(x[i].numpy(), filters[images.y[i]].numpy())
        assert np.abs(found.x[i].numpy().astype(int) - wanted).max() <= 1  # at the edge of a level
        assert (found.x[i].numpy() == wanted).mean() > 0.999


def test_the_filters_are_those_of_the_release() -> None:
    """Legacy draws of numpy, in the order of the released code: three filters, then the place of the 1."""
    np.random.seed(7)
    wanted = []
    for _ in range(5):
        one = np.random.uniform(low=0, high=0.3, size=(3, 1, 3, 3))
        one[0][0][np.random.randint(3)][np.random.randint(3)] = 1.0
        wanted.append(one[0][0])
    assert np.array_equal(random_filters(5, 3, 0.3, 7).numpy(), np.stack(wanted))


def test_gains_of_seed_0_are_the_published_ones() -> None:
    gains = random_filters(10, 3, 0.3, 0).sum((1, 2))
    assert gains.min().item() == pytest.approx(1.64, abs=0.01)
    assert gains.max().item() == pytest.approx(2.73, abs=0.01)


def test_controls(images: Images) -> None:
    own, same, next_ = (
        Cuda(filters=name).craft(images, seed=1).filters for name in ("by_class", "universal", "permuted")
    )
    assert torch.equal(same, own[:1].expand_as(own))
    assert torch.equal(next_, torch.cat([own[1:], own[:1]]))


def test_lines_lie_along_one_direction(images: Images) -> None:
    assert Vuda().craft(images, seed=0).filters.shape == (4, 9, 1)
    assert Huda().craft(images, seed=0).filters.shape == (4, 1, 9)
    lines = random_lines(200, 9, 0.3, 0)
    assert (lines == 1).sum(1).tolist() == [1] * 200
    assert lines.sum(1).mean().item() == pytest.approx(1 + 8 * 0.15, abs=0.05)
    scalars = scalar_lines(4, 0.3)
    assert torch.allclose(scalars[:, 0], torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=torch.float64))
    assert torch.equal(scalars[:, 0], scalars[:, 2])


def test_reconstructions_say_so(images: Images) -> None:
    for kind in ("vuda", "huda"):
        facts = Poison.parse(kind, "test").craft(images, seed=0).facts()
        assert "reconstruction" in facts["note"]
        assert "none" in facts["bound"]
        assert "reconstruction" in (Poison.registry[kind].__doc__ or "")


def test_a_black_image_stays_black() -> None:
    black = Images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2), 2)
    assert not Cuda().craft(black, seed=0).apply(black).x.any()


def test_filters_fit_images_of_the_same_classes_only(images: Images) -> None:
    crafted = Cuda().craft(images.take(torch.arange(8)), seed=0)
    assert crafted.apply(images).x.shape == images.x.shape  # they transfer
    more = Images(images.x, images.y, 7)
    with pytest.raises(InputError, match="filters for 4 classes cannot be applied to images of 7"):
        crafted.apply(more)


@pytest.mark.parametrize(
    ("poison", "shape"), [(Cuda(kernel_size=9), (3, 8, 32)), (Vuda(), (3, 8, 32)), (Huda(), (3, 32, 8))]
)
def test_a_filter_larger_than_the_images_is_refused(poison: Poison, shape: tuple[int, int, int]) -> None:
    with pytest.raises(
        InputError, match=r"a filter of \dx\d is larger than images of .*: write a smaller one"
    ):
        poison.check(Extent(10, shape, 4))
    poison.check(Extent(10, (3, 32, 32), 4))


@pytest.mark.parametrize("settings", [{"kernel_size": 4}, {"kernel_size": 1}, {"blur": 0}])
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Cuda.parse(settings, "test")


@pytest.mark.parametrize(
    "chain",
    [
        ["ops", "cuda"],
        ["cuda", "ops"],
        ["cuda", {"kind": "random_noise", "granularity": "sample_wise"}],
        [{"kind": "tap", **Tap.smoke}, "ops"],
        [{"kind": "tap", **Tap.smoke}, "cuda", "ops"],
    ],
    ids=lambda chain: ", ".join(one if isinstance(one, str) else one["kind"] for one in chain),
)
def test_a_chain_is_built_from_poisons_of_the_clean_images(chain: list[Any], store: Store) -> None:
    spec = DataSpec.parse({"poison": chain, "limit": 60, "seed": 1}, "test").pinned()
    clean = store.ensure(spec.clean)
    built, expected = store.ensure(spec), Images(clean.x, clean.y, clean.num_classes)
    for one in chain:
        expected = Poison.parse(one, "test").craft(clean, seed=1).apply(expected)
    assert torch.equal(built.x, expected.x)
    assert not torch.equal(built.x, clean.x)


@pytest.mark.parametrize("kind", Poison.registry)
def test_what_transfers_is_crafted_on_other_images(kind: str, store: Store, tmp_path: Path) -> None:
    member, file = Poison.registry[kind], tmp_path / "new.pt"
    gen = torch.Generator().manual_seed(0)
    Images(
        torch.randint(256, (30, 3, 16, 16), generator=gen, dtype=torch.uint8), torch.arange(30) % 10, 10
    ).save(file)
    poison = {"kind": kind, **member.smoke}
    data = {
        "source": {"kind": "tensors", "train": str(file), "test": str(file)},
        "poison": poison,
        "crafted_on": {"kind": "digits", "size": 16},
    }
    if not Poison.parse(poison, "test").transfers or kind == "imported":
        with pytest.raises(InputError, match=r"one change per image|the store lacks|imported"):
            store.ensure(DataSpec.parse(data, "test").pinned())
        return
    spec = DataSpec.parse(data, "test").pinned()
    made = Poison.parse(poison, "test").craft(
        store.ensure(DataSpec.parse({"source": data["crafted_on"]}, "x").pinned()), seed=0
    )
    assert torch.equal(store.ensure(spec).x, made.apply(store.ensure(spec.clean)).x)


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ({"filters": torch.ones(2, 3, 3)}, {"rounding": "round"}),
        ({"filters": torch.ones(2, 2, 3).double()}, {"rounding": "round"}),
        ({"filters": torch.ones(0, 3, 3).double()}, {"rounding": "round"}),
        ({"filters": torch.full((2, 3, 3), math.nan).double()}, {"rounding": "round"}),
        ({"filters": -torch.ones(2, 3, 3).double()}, {"rounding": "round"}),
        ({"filters": torch.ones(2, 3, 3).double()}, {"rounding": "up"}),
        ({"filters": torch.ones(2, 3, 3).double()}, {}),
    ],
)
def test_damaged_filters_are_refused(columns: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
    with pytest.raises(DamagedError):
        Filtering.restore(columns, values)
