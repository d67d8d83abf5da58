"""A loss surface is the loss where the weights have been moved to, and nothing else moves."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import CPU
from tests.trainers.subjects import doubles, random_images, subject
from trainers import InputError
from trainers.architectures.resnet import ResNet18
from trainers.evaluate import accuracy
from trainers.images import to_float
from trainers.loop import generator
from trainers.probes.loss_surface import LossSurface, directions, surface, take_statistics


def softmax_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats, in float64."""
    top = logits.max(1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((total - logits[np.arange(len(labels)), labels]).mean())


def drawn(shape: torch.Size, seed: int) -> list[np.ndarray]:
    """The raw draws of both directions of a network's first weight."""
    return [doubles(torch.randn(shape, generator=generator(CPU, seed, way))) for way in range(2)]


def by_filter(raw: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Li et al., filter by filter, in float64."""
    out = np.empty_like(raw)
    for k in range(len(raw)):
        out[k] = raw[k] / np.sqrt((raw[k] ** 2).sum()) * np.sqrt((weight[k] ** 2).sum())
    return out


def test_of_a_linear_network_it_is_the_closed_form_in_float64() -> None:
    images = random_images(12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    probe = LossSurface(points=5, reach=0.8, limit=None, seed=3)
    found = probe.run(subject(model, images))
    weight, bias = doubles(model[1].weight), doubles(model[1].bias)
    first, second = (by_filter(raw, weight) for raw in drawn(model[1].weight.shape, 3))
    x = doubles(images.x).reshape(12, -1) / 255
    assert found.fields["x"] == found.fields["y"] == pytest.approx([-0.8, -0.4, 0, 0.4, 0.8])
    for (i, b), (j, a) in itertools.product(enumerate(found.fields["y"]), enumerate(found.fields["x"])):
        logits = x @ (weight + a * first + b * second).T + bias
        assert found.fields["loss"][i][j] == pytest.approx(softmax_loss(logits, images.y.numpy()), rel=1e-5)
        assert found.fields["acc"][i][j] == (logits.argmax(1) == images.y.numpy()).mean()
    border = [v for i, row in enumerate(found.fields["loss"]) for j, v in enumerate(row) if {i, j} & {0, 4}]
    assert len(border) == 16
    assert found.metrics["sharpness"] == pytest.approx(np.mean(border) - found.metrics["centre_loss"])


def test_of_a_quadratic_it_is_the_quadratic() -> None:
    """Measuring |w|²: its values along two directions follow from three products."""
    model = nn.Linear(6, 5).double()
    ((weight, first, second),) = [(w, a.double(), b.double()) for w, a, b in directions(model, 0)]
    offsets = [-1.0, 0.0, 2.0]
    seen = surface(model, [(weight, first, second)], offsets, lambda m: m.weight.square().sum()[None])
    w, a, b = (doubles(t) for t in (weight, first, second))
    for (i, y), (j, x) in itertools.product(enumerate(offsets), repeat=2):
        known = (w * w).sum() + x * x * (a * a).sum() + y * y * (b * b).sum()
        known += 2 * (x * (w * a).sum() + y * (w * b).sum() + x * y * (a * b).sum())
        assert seen[i, j, 0].item() == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("batch_norm", ["running", "recomputed"])
@pytest.mark.parametrize("on", ["train", "test"])
def test_its_centre_is_the_network(batch_norm: str, on: str) -> None:
    train, test = random_images(48, (3, 32, 32)), random_images(40, (3, 32, 32))
    model = ResNet18(width=4).network(num_classes=4, shape=(3, 32, 32), seed=0)
    take_statistics(model, train.subset(32), CPU)
    model.eval()
    probe = LossSurface.parse({"points": 3, "limit": 32, "on": on, "batch_norm": batch_norm}, "test")
    found = probe.run(subject(model, train, test))
    some = (train if on == "train" else test).subset(32)
    with torch.no_grad():
        loss = F.cross_entropy(model(to_float(some.x)).double(), some.y).item()
    assert found.metrics["centre_loss"] == found.fields["loss"][1][1] == pytest.approx(loss, rel=1e-5)
    assert found.metrics["centre_acc"] == found.fields["acc"][1][1] == accuracy(model, some, CPU)
    assert found.fields["how"] == {"seed": 0, "on": on, "images": 32, "batch_norm": batch_norm}
    assert found.fields["loss"][0][0] != pytest.approx(loss, rel=1e-3)
    assert json.loads(json.dumps(found.fields, allow_nan=False)) == found.fields


def test_recomputed_statistics_are_those_of_the_moved_network() -> None:
    """Each place against the batch's own mean and variance in float64, of a convolution of which BatchNorm's
    running statistics at the centre would be wrong."""
    images = random_images(10, (1, 4, 4), classes=2)
    conv = nn.Conv2d(1, 2, 1, bias=False)
    model = nn.Sequential(conv, nn.BatchNorm2d(2), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    found = LossSurface(points=3, batch_norm="recomputed").run(subject(model, images))
    weight = doubles(conv.weight)
    first, second = (by_filter(raw, weight)[:, 0, 0, 0] for raw in drawn(conv.weight.shape, 0))
    x = doubles(images.x)[:, 0] / 255
    for (i, b), (j, a) in itertools.product(enumerate((-1, 0, 1)), repeat=2):
        maps = x[:, None] * (weight[:, 0, 0, 0] + a * first + b * second)[None, :, None, None]
        mean, var = maps.mean((0, 2, 3), keepdims=True), maps.var((0, 2, 3), keepdims=True, ddof=1)
        logits = ((maps - mean) / np.sqrt(var + 1e-5)).max((2, 3))
        assert found.fields["loss"][i][j] == pytest.approx(softmax_loss(logits, images.y.numpy()), rel=1e-4)
    assert torch.equal(model[1].running_mean, torch.zeros(2))
    assert model[1].momentum == 0.1


def test_directions_have_the_length_of_every_filter_and_leave_the_rest() -> None:
    model = ResNet18(width=4).network(num_classes=4, shape=(3, 32, 32), seed=0)
    moved = directions(model, 7)
    assert [w.shape for w, _, _ in moved] == [p.shape for p in model.parameters() if p.ndim > 1]
    assert len(moved) == 21
    for weight, *ways in moved:
        for way in ways:
            for k in range(len(weight)):
                assert way[k].norm().item() == pytest.approx(weight[k].norm().item(), rel=1e-5)


def test_networks_of_one_architecture_share_the_draw() -> None:
    one, other = (ResNet18(width=4).network(num_classes=4, shape=(3, 32, 32), seed=s) for s in (0, 1))
    before = torch.get_rng_state()
    for (_, a, b), (_, c, d) in zip(directions(one, 0), directions(other, 0), strict=True):
        for mine, theirs in ((a, c), (b, d)):
            alike = F.cosine_similarity(mine.flatten(1), theirs.flatten(1))
            assert torch.allclose(alike, torch.ones(len(mine)), atol=1e-5)
        assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0).abs() < 0.5
    assert torch.equal(torch.get_rng_state(), before)
    (_, a, b), (_, c, _) = directions(one, 0)[-1], directions(one, 1)[-1]
    assert not torch.equal(a, c)
    assert not torch.equal(b, c)


def test_the_network_is_left_as_it_was() -> None:
    images = random_images(20, (3, 32, 32))
    model = ResNet18(width=4).network(num_classes=4, shape=(3, 32, 32), seed=0).eval()
    before = copy.deepcopy(model.state_dict())
    for batch_norm in ("running", "recomputed"):
        LossSurface.parse({"points": 3, "batch_norm": batch_norm}, "test").run(subject(model, images))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module.training for module in model.modules())


def test_a_nan_loss_becomes_the_largest_float() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((2, 1), 0.5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.weight.expand(2, len(x)) - 0.4).sqrt().T

    found = LossSurface(points=3).run(subject(Root(), random_images(4, classes=2)))
    top = torch.finfo(torch.float32).max
    assert any(top in row for row in found.fields["loss"])
    assert found.metrics["centre_loss"] == pytest.approx(np.log(2))
    json.dumps(found.fields | found.metrics, allow_nan=False)


@pytest.mark.parametrize(("points", "write"), [(4, 5), (20, 21), (1, 3), (2, 3)])
def test_a_surface_without_a_centre_is_refused(points: int, write: int) -> None:
    with pytest.raises(InputError, match=f"found {points}; write {write}"):
        LossSurface.parse({"points": points}, "test")
