"""Attribution: rankings against scikit-learn and scipy, planted duplicates, removals and half-subsets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional as F

from tests.trainers.subjects import doubles, random_images, subject
from trainers import Images, InputError, TrainSpec, fit
from trainers.images import Extent, to_float
from trainers.probe import Subject
from trainers.probes.attribution import (
    METHODS,
    Attribution,
    chosen,
    correlation,
    exemplar,
    margins,
    prepares,
    ranks,
    scored,
)

RECIPE: dict[str, Any] = {
    "architecture": {"kind": "resnet18", "width": 4},
    "augmentations": [],
    "epochs": 2,
    "batch_size": 16,
    "precision": "float32",
}


def pixels_network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))


def trained_subject(train: Images, test: Images, **sets: Images) -> Subject:
    return replace(subject(pixels_network(), train, test, sets), spec=TrainSpec.parse(RECIPE, "test"), seed=3)


def planted() -> tuple[Images, Images]:
    """Random training images, and test images of which the first is a copy of training image 13."""
    train, test = random_images(40), random_images(21)
    x = test.x.clone()
    x[1] = train.x[13]
    return train, Images(x, test.y, 4)


def test_the_ranking_is_scikit_learns_and_a_copy_comes_first() -> None:
    train, test = planted()
    found = Attribution(targets=8).run(subject(pixels_network(), train, test))
    rows = torch.tensor(found.fields["targets"])
    a, b = (doubles(to_float(one)).reshape(len(one), -1) for one in (train.x, test.x[rows]))
    _, wanted = NearestNeighbors(n_neighbors=40).fit(a).kneighbors(b)
    scores = np.array(found.fields["scores"]["distance"])
    assert scores.shape == (40, 8)
    assert np.array(found.fields["scores"]["svm"]).shape == (40, 8)
    for column, near, label in zip(scores.T, wanted, test.y[rows].tolist(), strict=True):
        same = [row for row in near.tolist() if train.y[row] == label]
        assert np.argsort(-column, kind="stable")[: len(same)].tolist() == same
    assert 1 in found.fields["targets"]
    assert scores[:, found.fields["targets"].index(1)].argmax() == 13
    nearest = (train.y[torch.from_numpy(wanted[:, 0])] == test.y[rows]).double().mean()
    assert found.metrics == {"nearest_acc": pytest.approx(nearest.item())}


def test_scores_are_those_of_the_class_only_and_grow() -> None:
    train, test = planted()
    x, z = (to_float(one.x).flatten(1).double() for one in (train, test))
    found = scored(x, train.y, z, test.y, torch.cdist(z, x), 0)
    for method, scores in found.items():
        same = train.y[:, None] == test.y
        assert (scores[same] > 0).all(), method
        assert not scores[~same].any(), method
    copy = found["distance"][:, 1]
    assert int(copy.argmax()) == 13
    inside = (train.y == test.y[1]).nonzero().squeeze(1)
    wanted = (-torch.cdist(z[1:2], x)[0])[inside]
    assert torch.equal(copy[inside].argsort(), wanted.argsort())
    assert int(found["svm"][:, 1].argmax()) == 13
    again = scored(x, train.y, z, test.y, torch.cdist(z, x), 1)
    assert torch.equal(again["svm"], found["svm"])
    assert not torch.equal(again["random"], found["random"])


def test_an_exemplar_svm_ranks_by_the_direction_of_its_image() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn((30, 3), generator=gen).double()
    x[4] = torch.tensor([6.0, 0.0, 0.0])
    scores = exemplar(x, torch.tensor([7.0, 0.0, 0.0]).double())
    assert int(scores.argmax()) == 4


def test_ranks_and_correlations_are_scipys() -> None:
    gen = torch.Generator().manual_seed(0)
    a = torch.randint(4, (20, 3), generator=gen).double()  # with ties
    b = a + torch.randn((20, 3), generator=gen)
    wanted = np.mean([spearmanr(a[:, i].numpy(), b[:, i].numpy()).statistic for i in range(3)])
    assert correlation(a, b) == pytest.approx(wanted)
    assert ranks(torch.tensor([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert correlation(torch.ones((5, 1)), torch.rand((5, 1))) == 0, "nothing varies"


def test_margins_are_log_odds() -> None:
    net, images = pixels_network(), random_images(6)
    p = net(to_float(images.x)).double().softmax(1)[torch.arange(6), images.y]
    assert torch.allclose(margins(net, images, torch.device("cpu")), (p / (1 - p)).log(), atol=1e-5)


def test_a_class_balanced_choice() -> None:
    images = Images(torch.zeros((7, 1, 2, 2), dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 2, 0]), 4)
    assert chosen(images, 4).tolist() == [0, 1, 3, 5]
    assert chosen(images, 100).tolist() == list(range(7))


def test_poisoned_neighbours_are_counted() -> None:
    clean = random_images(40)
    x = clean.x.clone()
    x[:10, :, 0, 0] += 1
    train = Images(x, clean.y, 4)
    test = Images(clean.x[:4].clone(), clean.y[:4], 4)
    found = Attribution(targets=4, neighbours=1).run(subject(pixels_network(), train, test, {"clean": clean}))
    assert found.metrics["clean_changed"] == 0.25
    assert found.metrics["clean_changed_near"] == 1, "the nearest of each is its own copy"


def test_removals_and_subsets_train_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the first images of a ranking, and on halves; a last batch of one image is left out."""
    train, test = planted()
    seen = pixels_network()(to_float(test.x)).argmax(1)
    test = Images(test.x, seen, 4)  # so that all test images are right
    probe = Attribution(targets=4, removals=(1, 7), subsets=2, epochs=1)
    given = trained_subject(train, test)
    trained_on: list[Images] = []

    def spied(spec: TrainSpec, images: Images, *rest: Any, **more: Any) -> Any:
        trained_on.append(images)
        assert spec.epochs == 1
        return fit(spec, images, *rest, **more)

    monkeypatch.setattr("trainers.probes.attribution.fit", spied)
    found = probe.run(given)
    rows = chosen(test, 4)
    right = [
        t
        for t, row in enumerate(rows.tolist())
        if given.model(to_float(test.x[row : row + 1])).argmax().item() == int(test.y[row])
    ]
    assert len(right) == 4
    assert len(trained_on) == 3 * 2 * len(right) + 2
    first = int(np.array(found.fields["scores"]["distance"])[:, 0].argmax())
    kept = torch.arange(40) != first
    assert torch.equal(trained_on[0].x, train.x[kept]), "without the nearest of its class"
    halves = trained_on[-2:]
    assert [len(images) for images in halves] == [20, 20]
    sizes = {len(images) for images in trained_on[:-2]}
    assert sizes <= {39, 32}, "40 less 1 and 7; 33 would leave a batch of one image"
    assert set(found.metrics) == set(probe.metrics)
    assert set(found.curves) == set(METHODS)
    assert all(len(curve) == 2 for curve in found.curves.values())
    assert found == probe.run(given)


def test_without_most_of_its_class_a_test_image_is_not_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for training: a network that predicts the class of the nearest kept image."""
    train = random_images(40)
    test = Images(train.x[:4].clone(), train.y[:4], 4)

    class Nearest(nn.Module):
        def __init__(self, images: Images) -> None:
            super().__init__()
            self.x, self.y = to_float(images.x).flatten(1), images.y

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            near = torch.cdist(x.flatten(1), self.x).argmin(1)
            return F.one_hot(self.y[near], 4).float()

    given = subject(pixels_network(), train, test)
    model = Nearest(train)
    layer = nn.Linear(192, 4)
    monkeypatch.setattr("trainers.probes.attribution.last_layer", lambda *_, **__: layer)
    monkeypatch.setattr(
        "trainers.probes.attribution.features", lambda _, __, images, ___: to_float(images.x).flatten(1)
    )
    monkeypatch.setattr(
        Attribution, "_trained", lambda _, subject, rows, __: Nearest(subject.train.take(rows))
    )
    found = Attribution(targets=4, removals=(1, 10)).run(replace(given, model=model))
    assert found.curves["distance"][1] == 1, "without all images of its class"
    assert found.curves["random"][1] == 1
    assert found.curves["distance"][0] >= found.curves["random"][0]


def test_settings_that_make_no_sense() -> None:
    extent, jpeg = Extent(20, (3, 8, 8), 4), TrainSpec.parse({"defense": ["jpeg", "pgd_at"]}, "test")
    with pytest.raises(InputError, match="cannot train again: the defense 'chain' has prepared the images"):
        Attribution(removals=(2,)).check_extents(jpeg, extent, extent, {})
    started = TrainSpec.parse({"start": {"kind": "weights", "path": __file__}}, "test")
    with pytest.raises(InputError, match=r"cannot train again: .*this training has a start"):
        Attribution(subsets=2).check_extents(started, extent, extent, {})
    with pytest.raises(InputError, match="there are 20 images, and 19 are to be removed"):
        Attribution(removals=(19,)).check_extents(TrainSpec(), extent, extent, {})
    Attribution().check_extents(jpeg, extent, extent, {})
    with pytest.raises(InputError, match=r"removals must ascend, found \[4, 2\]"):
        Attribution(removals=(4, 2)).check_extents(TrainSpec(), extent, extent, {})
    with pytest.raises(InputError, match="it has 5 images, not 20"):
        Attribution().check_extents(TrainSpec(), extent, extent, {"clean": Extent(5, (3, 8, 8), 4)})
    with pytest.raises(InputError, match="a rank correlation needs two halves or more, found 1; write 50"):
        Attribution.parse({"subsets": 1}, "test")
    assert not prepares(TrainSpec.parse({"defense": "pgd_at"}, "test").defense)
