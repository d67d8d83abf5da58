"""Linearly separable patches, and autoregressive noise, against plain loops and closed forms."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

from poisons import CraftContext
from poisons.methods.ar import Ar, coefficients, responses
from poisons.methods.lsp import Lsp
from poisons.perturbations.autoregression import Autoregression, signals
from poisons.perturbations.patches import Patches, corners
from trainers import Images, InputError
from trainers.images import Extent
from trainers.softmax_regression import softmax_regression
from trainers.stored import DamagedError

QUIET = CraftContext(report=lambda _: None)


def grey(n: int, classes: int = 4, shape: tuple[int, int, int] = (3, 32, 32)) -> Images:
    """Images of middle grey, on which no change is clipped."""
    return Images(torch.full((n, *shape), 128, dtype=torch.uint8), torch.arange(n) % classes, classes)


def changes(poison: Any, images: Images, seed: int = 0) -> Tensor:
    return (poison.craft(images, seed=seed, context=QUIET).apply(images).x.double() - images.x.double()) / 255


# -- LSP


def test_patches_are_constant_and_of_the_published_norm() -> None:
    delta = changes(Lsp(rounding="round"), grey(80))
    squares = delta.unfold(2, 8, 8).unfold(3, 8, 8)
    assert squares.shape == (80, 3, 4, 4, 8, 8)
    assert torch.equal(squares.amax((4, 5)), squares.amin((4, 5)))
    assert math.sqrt(3072) * 6 / 255 == pytest.approx(1.3041, abs=1e-4)
    assert delta.flatten(1).norm(dim=1).numpy() == pytest.approx(1.3041, abs=0.03)  # but for rounding


@pytest.mark.parametrize("rounding", ["truncate", "round"])
@pytest.mark.parametrize("norm", [0.2175, 0.3, 0.6, None, 4.0])
def test_every_norm_that_is_accepted_is_about_what_images_change_by(
    norm: float | None, rounding: Any
) -> None:
    """Truncation takes half a level off each value: at the published norm that is half a percent, at the
    smallest one that is accepted a fifth."""
    poison = Lsp(norm=norm, rounding=rounding)
    poison.check(Extent(80, (3, 32, 32), 4))
    wanted = 1.3041 if norm is None else norm
    sizes = changes(poison, grey(80)).flatten(1).norm(dim=1) / wanted
    if rounding == "truncate":
        assert sizes.mean() == pytest.approx(math.hypot(1, 0.11 / wanted), rel=0.04)
    else:
        assert sizes.numpy() == pytest.approx(1, abs=0.12)


def test_points_are_scikit_learns_by_class_in_order() -> None:
    images = grey(30, 3)
    crafted = Lsp().craft(images, seed=5)
    points, of = make_classification(
        n_samples=30, n_features=48, n_informative=48, n_redundant=0, n_repeated=0, n_classes=3,
        n_clusters_per_class=1, class_sep=10, flip_y=0, random_state=5,
    )  # fmt: skip
    for k in range(3):
        for row, point in zip((images.y == k).nonzero()[:, 0].tolist(), points[of == k], strict=True):
            value = point / np.sqrt((point**2).sum() * 64) * math.sqrt(3072) * 6 / 255
            assert np.array_equal(crafted.levels[row].flatten().numpy(), np.floor(value * 255))


def test_a_linear_classifier_tells_the_classes_apart() -> None:
    delta = changes(Lsp(), grey(200, 10))
    labels = torch.arange(200) % 10
    x = delta.flatten(1) / delta.std()
    weight, bias = softmax_regression(x, labels, 10, l2=1e-4, iterations=50)
    assert ((x @ weight.mT + bias).argmax(1) == labels).all()


@pytest.mark.parametrize("shape", [(3, 33, 32), (1, 16, 16), (3, 224, 224), (1, 3, 5)])
def test_images_of_other_sizes(shape: tuple[int, int, int]) -> None:
    images = grey(6, 2, shape)
    crafted = Lsp(rounding="round").craft(images, seed=0)
    norms = changes(Lsp(rounding="round"), images).flatten(1).norm(dim=1).numpy()
    assert norms == pytest.approx(math.sqrt(math.prod(shape)) * 6 / 255, rel=0.1)
    assert crafted.patch == {33: 8, 16: 4, 224: 32, 3: 1}[shape[1]]
    assert int(corners(shape[1:], crafted.patch).sum()) == shape[1] * shape[2]


def test_one_image_and_unequal_classes() -> None:
    images = Images(torch.full((5, 3, 8, 8), 99, dtype=torch.uint8), torch.tensor([2, 0, 0, 0, 2]), 4)
    assert changes(Lsp(), images).flatten(1).norm(dim=1).min() > 0
    alone = Images(images.x[:1], images.y[:1], 4)
    assert changes(Lsp(), alone).any()


def test_more_classes_than_patches_can_tell_apart_are_refused() -> None:
    with pytest.raises(
        InputError, match="3 values of patches have room for 8 classes, and there are 9: write a smaller"
    ):
        Lsp(patch=8).check(Extent(10, (3, 8, 8), 9))


# -- AR


def plain(coefficient: Tensor, start: Tensor) -> Tensor:
    """As the release makes them: value by value, in raster order."""
    out = start.clone()
    for i in range(out.shape[1] - 2):
        for j in range(out.shape[2] - 2):
            window = out[:, i : i + 3, j : j + 3]
            out[:, i + 2, j + 2] = (window * coefficient).sum((1, 2))
    return out


@pytest.mark.parametrize("size", [(36, 36), (5, 9), (9, 5), (3, 3)])
def test_signals_are_those_of_a_plain_loop(size: tuple[int, int]) -> None:
    gen = torch.Generator().manual_seed(0)
    own = torch.randn((4, 2, 3, 3), generator=gen, dtype=torch.float64)
    own[:, :, 2, 2] = 0
    own /= own.abs().sum((2, 3), keepdim=True)
    start = torch.randn((4, 2, *size), generator=gen, dtype=torch.float64)
    wanted = torch.stack([plain(c, s) for c, s in zip(own, start, strict=True)])
    assert torch.allclose(signals(own, start.clone()), wanted, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def found() -> Tensor:
    return coefficients(4, 3, 10.0, 100_000, 0, QUIET)


def test_coefficients_sum_to_one_and_leave_out_the_value_itself(found: Tensor) -> None:
    assert torch.allclose(found.sum((2, 3)), torch.ones(4, 3, dtype=torch.float64))
    assert not found[:, :, 2, 2].any()


def test_each_filter_annihilates_its_own_class_only(found: Tensor) -> None:
    """The construction of the paper's perfect classifier: its response to its own signal is 0, to others at
    least 10 as accepted, for other starts too a large one."""
    process = Autoregression(found, 8, (32, 32), 0, 1.0)
    noise = process.noise(torch.arange(8), torch.arange(8) % 4)
    table = torch.stack([responses(found, one) for one in noise])
    own = table[torch.arange(8), torch.arange(8) % 4]
    assert own.max() < 1e-10
    table[torch.arange(8), torch.arange(8) % 4] = math.inf
    assert table.min() > 1
    assert (table.argmin(1) != torch.arange(8) % 4).all()


def test_a_hand_built_classifier_reads_the_noise(found: Tensor) -> None:
    """The class whose filter does not respond, on the noise itself, before rounding: 100 %."""
    process = Autoregression(found, 40, (32, 32), 3, 1.0)
    labels = torch.arange(40) % 4
    noise = process.noise(torch.arange(40), labels)
    filters = found.clone()
    filters[:, :, 2, 2] = -1
    answer = F.max_pool2d(F.conv2d(noise, filters).relu(), 30).flatten(1).argmin(1)
    assert torch.equal(answer, labels)


@pytest.mark.parametrize(("norm", "eps"), [("L2", "1"), ("L2", "3"), ("Linf", "8/255")])
def test_the_change_has_the_size_of_the_budget(norm: Any, eps: str) -> None:
    poison = Ar.parse({"norm": norm, "eps": eps, "response": 2.0}, "test")
    crafted = poison.craft(grey(12), seed=1, context=QUIET)
    exact = crafted.noise(torch.arange(12), torch.arange(12) % 4).flatten(1)
    sizes = exact.norm(dim=1) if norm == "L2" else exact.abs().amax(1)
    assert sizes.numpy() == pytest.approx(float(poison.eps))
    rounded = changes(poison, grey(12), seed=1)
    assert (rounded.flatten(1) - exact).abs().max() <= 0.5 / 255 + 1e-9


def test_each_image_has_its_own_noise_whoever_asks() -> None:
    poison = Ar(response=2.0)
    images = grey(40)
    crafted = poison.craft(images, seed=0, context=QUIET)
    whole = crafted.apply(images).x
    assert len({tuple(one.flatten().tolist()) for one in whole}) == 40
    rows = torch.tensor([30, 3, 17])
    assert torch.equal(crafted.apply(images.take(rows), rows).x, whole[rows])
    with pytest.raises(InputError, match=r"autoregressive noise for 40 images of .* cannot be applied"):
        crafted.apply(images.take(rows))


@pytest.mark.parametrize(("classes", "response"), [(10, 10.0), (100, 3.0)])
def test_published_coefficients_are_stable_and_apart(classes: int, response: float) -> None:
    """Each filter responds to signals of every other class, as published, and a classifier of these filters
    reads the noise. For single starts a response may be below the published bound on the one it was tried on."""
    images = grey(2 * classes, classes)
    crafted = Ar(coefficients="published").craft(images, seed=0, context=QUIET)
    assert torch.allclose(crafted.coefficients.sum((2, 3)), torch.ones(classes, 3).double(), atol=1e-3)
    assert len(crafted.coefficients.flatten(1).unique(dim=0)) == classes
    noise = crafted.noise(torch.arange(2 * classes), images.y)
    table = torch.stack([responses(crafted.coefficients, one) for one in noise])
    assert torch.equal(table.argmin(1), images.y)
    assert table[torch.arange(2 * classes), images.y].max() < 1e-10
    others = table[~F.one_hot(images.y, classes).bool()]
    assert others.quantile(0.001) > response / 4
    assert changes(Ar(coefficients="published"), images).flatten(1).norm(dim=1).numpy() == pytest.approx(
        1, abs=0.02
    )


def test_published_coefficients_are_for_some_images_only() -> None:
    poison = Ar(coefficients="published")
    for shape, classes in (((3, 32, 32), 20), ((1, 32, 32), 10)):
        with pytest.raises(InputError, match="published for 10 and 100 classes of RGB images; these have"):
            poison.check(Extent(100, shape, classes))
    with pytest.raises(InputError, match="leave `response` out"):
        Ar.parse({"coefficients": "published", "response": 3.0}, "test")


def test_plans_know_that_many_classes_take_a_search() -> None:
    def work(classes: int, **settings: Any) -> float:
        return Ar(**settings).work(1, shape=(3, 224, 224), num_classes=classes).values

    assert work(1000, tries=10**7) / work(100) == pytest.approx(1.2e6 / 4e4, rel=0.3)
    with pytest.raises(
        InputError, match=r"ar: 1,000 classes take about 1,264,911 processes, and .*: write tries: 5200000$"
    ):
        Ar().check(Extent(2000, (3, 32, 32), 1000))
    Ar(tries=5_200_000).check(Extent(2000, (3, 32, 32), 1000))
    Ar(response=1.0).check(Extent(2000, (3, 32, 32), 1000))
    assert work(1000, tries=4e4) == work(100) == work(10)
    assert work(100, coefficients="published") == 0


def test_no_more_processes_are_tried_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def spy(processes: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn.append(len(processes))
        return torch.arange(0), torch.empty(0)

    monkeypatch.setattr("poisons.methods.ar._stable", spy)
    with pytest.raises(InputError, match="5,000 processes"):
        coefficients(4, 3, 10.0, 5000, 0, QUIET)
    assert sum(drawn) == 5000


def test_too_few_tries_say_how_far_they_got() -> None:
    with pytest.raises(
        InputError,
        match=r"ar: 100 processes gave coefficients for \d of 4 classes: write a smaller response than 30",
    ):
        Ar(response=30.0, tries=100).craft(grey(4), seed=0, context=QUIET)


@pytest.mark.parametrize("settings", [{"eps": 0}, {"norm": "Linf", "eps": 2}])
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="eps must be above 0, and at most 1 in Linf"):
        Ar.parse(settings, "test")


def test_a_budget_in_linf_is_whole_levels() -> None:
    with pytest.raises(InputError, match="eps is whole levels in Linf; found 3/100; write 8/255"):
        Ar.parse({"norm": "Linf", "eps": "3/100"}, "test")
    with pytest.raises(InputError, match="found 1/1000; write 1/255"):
        Ar.parse({"norm": "Linf", "eps": "1/1000"}, "test")
    Ar.parse({"norm": "L2", "eps": "3/100"}, "test")


def test_patches_say_what_fits() -> None:
    crafted = Lsp().craft(grey(6), seed=0)
    assert isinstance(crafted, Patches)
    with pytest.raises(InputError):
        crafted.apply(grey(5))


LEVELS, OF_PATCHES = torch.zeros(2, 3, 2, 2, dtype=torch.int16), {"patch": 4, "shape": [8, 8]}
WEIGHTS = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
OF_NOISE = {"images": 4, "shape": [8, 8], "seed": 0, "eps": 1.0, "norm": "L2"}


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ({"levels": LEVELS.int()}, OF_PATCHES),
        ({"levels": LEVELS[:0]}, OF_PATCHES),
        ({"levels": LEVELS + 300}, OF_PATCHES),
        ({"levels": LEVELS}, {**OF_PATCHES, "patch": 3}),
        ({"levels": LEVELS}, {**OF_PATCHES, "patch": 0}),
        ({"levels": LEVELS}, {"patch": 4}),
    ],
)
def test_damaged_patches_are_refused(columns: dict[str, Tensor], values: dict[str, Any]) -> None:
    assert Patches.restore({"levels": LEVELS}, OF_PATCHES).patch == 4
    with pytest.raises(DamagedError):
        Patches.restore(columns, values)


@pytest.mark.parametrize(
    ("weights", "values"),
    [
        (WEIGHTS.float(), OF_NOISE),
        (WEIGHTS[:0], OF_NOISE),
        (WEIGHTS[:, :, :2], OF_NOISE),
        (WEIGHTS + 1, OF_NOISE),
        (WEIGHTS + math.inf, OF_NOISE),
        (WEIGHTS, {**OF_NOISE, "images": 0}),
        (WEIGHTS, {**OF_NOISE, "eps": -1.0}),
        (WEIGHTS, {**OF_NOISE, "norm": "L1"}),
        (WEIGHTS, {}),
    ],
)
def test_damaged_coefficients_are_refused(weights: Tensor, values: dict[str, Any]) -> None:
    assert Autoregression.restore({"coefficients": WEIGHTS}, OF_NOISE).shape == (8, 8)
    with pytest.raises(DamagedError):
        Autoregression.restore({"coefficients": weights}, values)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (
            Lsp(norm=60.0),
            r"lsp: norm: no two images of 3x32x32 are further apart than 55\.43, and this is 60",
        ),
        (
            Lsp(norm=0.2),
            r"lsp: norm: .* is below 1/255 for each value, and vanishes in rounding: write at least 0\.218",
        ),
        (Ar(eps=Fraction(56)), r"ar: eps: no two images of 3x32x32 are further apart"),
        (
            Ar(eps=Fraction(1, 50)),
            r"ar: eps: .* is below 0\.1/255 .* vanishes in rounding: write at least 0\.022",
        ),
    ],
    ids=["lsp large", "lsp small", "ar large", "ar small"],
)
def test_norms_that_images_cannot_change_by(poison: Lsp | Ar, message: str) -> None:
    with pytest.raises(InputError, match=message):
        poison.check(Extent(100, (3, 32, 32), 10))
