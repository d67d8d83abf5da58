"""Prototypes against a second way to find them, on a network whose features are the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn

from tests.trainers.subjects import doubles, random_images, subject
from trainers import Images, InputError, TrainSpec
from trainers.autoencoder import fit_decoder
from trainers.features import class_means
from trainers.images import Extent, to_float
from trainers.probes.prototypes import Prototypes, moved, nearest, refinement


def pixels_network(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))


def coloured(n: int, seed: int, shift: int = 0) -> Images:
    """Images of 3 classes, each brighter in one channel; `shift` exchanges the channels."""
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randint(80, (n, 3, 8, 8), generator=gen)
    for k in range(3):
        x[y == k, (k + shift) % 3] += 60
    return Images(x.to(torch.uint8), y, 3)


def test_the_nearest_prototype_is_scikit_learns() -> None:
    train, test = random_images(40), random_images(30)
    x, z = (doubles(to_float(one.x)).reshape(len(one), -1) for one in (train, test))
    reference = NearestCentroid().fit(x, train.y.numpy())
    found = Prototypes(decoder_epochs=1, decoder_width=2).run(subject(pixels_network(), train, test))
    wanted = float((reference.predict(z) == test.y.numpy()).mean())
    assert found.metrics["acc"] == found.metrics["pixel_acc"] == pytest.approx(wanted)
    mean = ((x - x.mean(0)) ** 2).mean()
    assert found.metrics["mean_mse"] == pytest.approx(mean, rel=1e-5)


def test_a_class_without_images_is_never_nearest() -> None:
    vectors = torch.tensor([[0.0], [1.0], [5.0]])
    means = class_means(vectors, torch.tensor([0, 0, 2]), 3)
    assert torch.equal(means.nan_to_num(-1), torch.tensor([[0.5], [-1.0], [5.0]]))
    assert nearest(means, torch.tensor([[0.0], [9.0]]), torch.tensor([0, 2])) == 1
    assert moved(means, means + 2.25) == pytest.approx(0.5), "of the two classes that are there"
    assert moved(means[:1], means[:1]) == 0


def test_refinement_begins_with_the_own_prototypes_and_ends_with_the_others() -> None:
    gen = torch.Generator().manual_seed(0)
    wrong, right = torch.randn((4, 6), generator=gen), torch.randn((4, 6), generator=gen)
    labels = torch.arange(40) % 4
    vectors = right[labels] + 0.3 * torch.randn((40, 6), generator=gen)
    curve, (refined, weight) = refinement(wrong, right, vectors, labels)
    assert curve[0] == nearest(wrong, vectors[::2], labels[::2])
    assert curve[-1] == nearest(right, vectors[::2], labels[::2]) == 1
    half = int(weight * 10)
    mixed = wrong + half / 10 * (right - wrong)
    assert curve[half] == max(curve)
    assert curve.index(max(curve)) == half, "the first of the best"
    assert refined == nearest(mixed, vectors[1::2], labels[1::2]), "on images that did not choose"


def test_a_class_that_only_one_side_has_stays() -> None:
    vectors, labels = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 1, 2])
    whole = torch.tensor([[0.0], [1.0], [5.0]])
    partial = torch.tensor([[0.5], [1.5], [torch.nan]])
    forwards, _ = refinement(whole, partial, vectors.repeat(2, 1), labels.repeat(2))
    assert forwards[0] == 1
    assert forwards[5] == 1, "the third class is where it was"
    assert forwards[-1] == nearest(partial, vectors, labels)
    backwards, _ = refinement(partial, whole, vectors.repeat(2, 1), labels.repeat(2))
    assert backwards[0] == nearest(partial, vectors, labels)
    assert backwards[-1] == 1


def test_features_of_all_sets_have_one_arithmetic() -> None:
    """A probe runs under the autocast of its training."""
    train, test = random_images(40), random_images(30)
    given = subject(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4)), train, test)
    with torch.autocast("cpu", torch.bfloat16):
        found = Prototypes(decoder_epochs=1, decoder_width=2).run(replace(given, sets={"same": train}))
    assert found.metrics["same_distance"] == 0
    assert found.metrics["same_acc"] == found.metrics["acc"]


def test_sets_are_told_from_the_training_images() -> None:
    train, test = coloured(60, 0, shift=1), coloured(40, 1)
    sets = {"clean": coloured(60, 2), "same": train}
    given = subject(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), train, test, sets)
    probe = Prototypes(decoder_epochs=3, decoder_width=4)
    found = probe.run(given)
    metrics = found.metrics
    assert metrics["acc"] == 0, "the colours were exchanged"
    assert metrics["clean_acc"] == 1
    assert metrics["clean_distance"] > 0.5
    assert metrics["same_distance"] == 0
    assert metrics["same_acc"] == metrics["same_refined_acc"] == 0
    assert metrics["clean_refined_acc"] > 0.9
    assert 0.5 <= metrics["clean_mixed"] <= 1
    assert len(found.curves["clean"]) == 11
    names = {f"{name}_{ending}" for name in sets for ending in probe.per_set}
    assert set(metrics) == {*probe.metrics, *names}
    labels = [image["label"] for image in found.fields["images"]]
    assert labels[:3] == ["0, training images", "0, clean", "0, same"]
    assert len(labels) == 9
    assert probe.run(given) == found


def test_exchanging_classes_exchanges_their_prototypes() -> None:
    images, order = random_images(20), torch.tensor([2, 0, 3, 1])
    vectors = to_float(images.x).flatten(1)
    assert torch.equal(class_means(vectors, order[images.y], 4)[order], class_means(vectors, images.y, 4))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10)])
def test_a_decoder_learns_more_than_the_mean_image(shape: tuple[int, int, int]) -> None:
    gen = torch.Generator().manual_seed(0)
    patterns = torch.rand((5, *shape), generator=gen)
    labels = torch.arange(100) % 5
    images, vectors = patterns[labels], torch.eye(5)[labels] * 40 + 7
    settings = {"width": 8, "epochs": 60, "batch_size": 20, "lr": 1e-2, "seed": 0}
    before = torch.get_rng_state()
    decoder, error = fit_decoder(vectors, images, **settings)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert not decoder.training
    mean = (images - images.mean(0)).square().mean().item()
    assert error < mean / 4
    with torch.no_grad():
        assert (decoder(vectors) - images).square().mean().item() < mean / 4
    again, _ = fit_decoder(vectors, images, **settings)  # type: ignore[arg-type]
    assert np.array_equal(doubles(decoder(vectors)), doubles(again(vectors)))


def test_a_single_test_image_is_refused() -> None:
    many, one = Extent(20, (3, 8, 8), 4), Extent(1, (3, 8, 8), 4)
    with pytest.raises(InputError, match="halves the test images, and there is only one"):
        Prototypes().check_extents(TrainSpec(), many, one, {})
    with pytest.raises(InputError, match="learns from two images or more"):
        Prototypes(limit=1).check_extents(TrainSpec(), many, many, {})
