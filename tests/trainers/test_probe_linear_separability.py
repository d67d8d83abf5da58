"""A linear classifier separates shortcuts but not noise that is independent of the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from poisons.methods.ops import Ops
from poisons.sources.digits import Digits
from tests.trainers.subjects import doubles, random_images, subject
from trainers import Images, InputError
from trainers.images import FloatImages, to_float
from trainers.probe import Finding, ProbeRun, check_probes
from trainers.probes import linear_separability
from trainers.probes.linear_separability import (
    LinearSeparability,
    fit,
    held_out,
    loss_and_accuracy,
    perturbations,
)


def measure(train: Images, clean: Images, **settings: object) -> Finding:
    probe = LinearSeparability.parse(settings, "test")
    return probe.run(subject(nn.Flatten(), train, sets={"clean": clean}))


def moved(clean: Images, delta: torch.Tensor) -> Images:
    """`clean` plus `delta` in whole levels, within 0..255."""
    return Images((clean.x.short() + delta).clamp(0, 255).to(torch.uint8), clean.y, clean.num_classes)


def noise(images: Images, eps: int = 8) -> torch.Tensor:
    gen = torch.Generator().manual_seed(1)
    return torch.randint(-eps, eps + 1, images.x.shape, generator=gen, dtype=torch.int16)


@pytest.fixture(scope="module")
def digits() -> Images:
    reading = Digits().open("train")
    return reading.take(torch.arange(len(reading.y)))


def test_one_pixel_shortcuts_are_separable(digits: Images) -> None:
    found = measure(Ops().craft(digits, seed=0).apply(digits), digits)
    assert found.metrics == {"acc": 1.0, "held_out_acc": 1.0}
    assert found.fields["fitted"] + found.fields["held_out"] == len(digits)
    assert found.fields["loss"] < 1e-3


def test_noise_independent_of_labels_is_memorised_only(digits: Images) -> None:
    """Fewer images than values: separable where it was fitted, chance (four deviations) where it was not."""
    grey = Images(digits.x // 2 + 64, digits.y, 10)
    found = measure(moved(grey, noise(grey)), grey)
    assert found.metrics["acc"] == 1
    chance, n = 0.1, found.fields["held_out"]
    assert abs(found.metrics["held_out_acc"] - chance) < 4 * (chance * (1 - chance) / n) ** 0.5


def test_clipped_noise_reveals_the_image(digits: Images) -> None:
    assert measure(moved(digits, noise(digits)), digits).metrics["held_out_acc"] > 0.4


def test_noise_with_more_images_than_values_is_not_separable() -> None:
    images = random_images(1200, (1, 4, 4))
    found = measure(moved(images, noise(images)), images)
    assert found.metrics["acc"] < 0.4
    assert found.metrics["held_out_acc"] < 0.35


def test_clean_images_give_the_accuracy_of_the_largest_class() -> None:
    images = random_images(200)
    y = torch.arange(200).clamp(max=120) % 4  # class 0 is 0, 4, ... and all from 120
    clean = Images(images.x, y, 4)
    found = measure(clean, clean)
    fitted = y[~held_out(y, 4, 0.2)]
    assert found.metrics["acc"] == pytest.approx((fitted == 0).double().mean().item())
    share = torch.bincount(fitted).double() / len(fitted)
    assert found.fields["loss"] == pytest.approx(-(share * share.log()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("rows", [4096, 37])
def test_the_fit_is_the_softmax_regression(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Against scikit-learn's, without a penalty, in float64; also where not all rows are float at once."""
    monkeypatch.setattr(linear_separability, "ROWS", rows)
    clean = random_images(400, (1, 3, 3))
    signal = (clean.y[:, None, None, None] * torch.tensor([3, -2, 1])).short()
    found = perturbations(moved(clean, signal + noise(clean)), clean, None)
    linear = fit(found, 4, 1000)
    x = (doubles(found.delta) - found.low) / (found.high - found.low)
    other = LogisticRegression(C=np.inf, max_iter=5000, tol=1e-10).fit(x, found.labels.numpy())
    loss, acc = loss_and_accuracy(found, linear)
    theirs = other.predict_log_proba(x)[np.arange(400), found.labels.numpy()]
    assert loss == pytest.approx(-theirs.mean(), rel=1e-3)
    assert acc == pytest.approx(other.score(x, found.labels.numpy()), abs=0.01)
    assert 0.3 < acc < 0.9


def test_images_of_a_defense_that_are_not_whole_levels_are_compared_as_they_are() -> None:
    clean = random_images(40)
    train = FloatImages(to_float(clean.x) - 0.25 / 255, clean.y, clean.num_classes)
    found = perturbations(train, clean, None)
    assert found.delta.dtype == torch.float32
    assert torch.allclose(found.delta, torch.tensor(-0.25), atol=1e-3)
    whole = perturbations(FloatImages(to_float(moved(clean, noise(clean)).x), clean.y, 4), clean, None)
    by_hand = perturbations(moved(clean, noise(clean)), clean, None)
    assert torch.allclose(whole.delta, by_hand.delta.float(), atol=1e-3)


def test_perturbations_are_differences_in_whole_levels_of_the_same_part() -> None:
    clean = random_images(40)
    train = moved(clean, noise(clean, 200))
    found = perturbations(train, clean, 12)
    rows = clean.balanced(12)
    by_hand = train.x[rows].numpy().astype(int) - clean.x[rows].numpy().astype(int)
    assert np.array_equal(found.delta.numpy(), by_hand.reshape(12, -1))
    assert (found.low, found.high) == (by_hand.min(), by_hand.max())
    assert found.low < -128
    assert torch.equal(found.labels, clean.y[rows])
    (floats, _), *_ = found.floats()
    assert (floats.min(), floats.max()) == (0, 1)


def test_a_share_of_each_class_is_held_out_and_not_fitted() -> None:
    y = torch.cat([torch.full((n,), k) for k, n in enumerate((50, 7, 1, 0))])
    out = held_out(y, 4, 0.2)
    assert torch.bincount(y[out], minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.equal(out, held_out(y, 4, 0.2))
    clean = random_images(600, (1, 4, 4))
    delta, out = noise(clean), held_out(clean.y, 4, 0.2)
    one = measure(moved(clean, delta), clean)
    delta[out] = -delta[out]
    other = measure(moved(clean, delta), clean)
    assert other.fields == one.fields
    assert other.metrics["acc"] == one.metrics["acc"]
    assert other.metrics != one.metrics
    assert (one.fields["fitted"], one.fields["held_out"]) == (480, 120)
    assert one.fields["loss"] > 0.5


def test_a_class_with_no_images_to_fit_is_refused() -> None:
    clean = random_images(40)
    train = moved(clean, noise(clean))
    with pytest.raises(
        InputError, match=r"holds 0.2 of each class out .* nothing is left of class 0 \(1 in all\)"
    ):
        measure(train, clean, limit=4)
    with pytest.raises(InputError, match=r"write a smaller share, or take more images"):
        measure(train, clean, share=0.95)


def test_it_draws_no_random_numbers_and_is_reproducible(digits: Images) -> None:
    train, state = moved(digits, noise(digits)), torch.get_rng_state()
    one, again = (measure(train, digits, limit=200, iterations=30) for _ in range(2))
    assert one == again
    assert torch.equal(torch.get_rng_state(), state)


def test_unpaired_images_are_refused() -> None:
    images = random_images(20)
    with pytest.raises(InputError, match="needs a set 'clean'"):
        check_probes([ProbeRun("separable", LinearSeparability())], images)
    for other in (random_images(16), Images(images.x, images.y.flip(0), 4)):
        with pytest.raises(InputError, match="does not hold the images under the training set"):
            measure(images, other)
