"""Deep feature reweighting: the fit against scikit-learn, the features against a forward pass."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tests.conftest import CPU
from tests.trainers.subjects import random_images, subject
from trainers import Images, InputError
from trainers.evaluate import BATCH
from trainers.features import features, last_layer
from trainers.images import to_float
from trainers.probes.deep_feature_reweighting import DeepFeatureReweighting, adapted
from trainers.softmax_regression import softmax_regression


def test_softmax_regression_is_scikit_learns() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(120, 7, generator=gen, dtype=torch.float64)
    labels = (x[:, :3] + torch.randn(120, 3, generator=gen, dtype=torch.float64)).argmax(1)
    weight, bias = softmax_regression(x, labels, 3, l2=0.01, iterations=500)
    reference = LogisticRegression(C=1 / (120 * 0.01), tol=1e-10, max_iter=5000).fit(
        x.numpy(), labels.numpy()
    )
    found = (x @ weight.mT + bias).softmax(1).numpy()
    assert np.allclose(found, reference.predict_proba(x.numpy()), atol=1e-5)


def bright(n: int, seed: int = 0) -> Images:
    """Images of two classes, dark and bright."""
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randint(100, (n, 1, 4, 4), generator=gen) + 150 * y[:, None, None, None]
    return Images(x.to(torch.uint8), y, 2)


def mean_network() -> nn.Module:
    """Its only feature is the brightness, and its last layer mistakes one class for the other."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[9.0], [-9.0]]))
        net[2].bias.copy_(torch.tensor([-4.5, 4.5]))
    return net


def test_useful_features_under_a_wrong_last_layer_are_recovered() -> None:
    model, test = mean_network(), bright(100, seed=1)
    before = copy.deepcopy(model.state_dict())
    assert (model(to_float(test.x)).argmax(1) == test.y).sum() == 0
    found = DeepFeatureReweighting().run(subject(model, bright(50), test, {"clean": bright(60, seed=2)}))
    assert found.metrics == {"acc": 1.0, "adapted_acc": 1.0, "random_acc": 1.0}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_random_features_are_a_control() -> None:
    """The network before training has no useful feature: its pooled values are all multiplied by zero."""
    model, test = mean_network(), bright(100, seed=1)
    trained = subject(
        nn.Sequential(model[0], model[1], nn.Sequential(nn.Identity(), model[2])), bright(50), test
    )
    useless = nn.Sequential(nn.Flatten(), nn.Threshold(9.0, 0.0), nn.Linear(16, 2))
    given = {"clean": bright(60, seed=2)}
    found = DeepFeatureReweighting().run(
        type(trained)(**{**vars(trained), "untrained": lambda: copy.deepcopy(useless).eval(), "sets": given})
    )
    assert found.metrics["acc"] == 1.0
    assert found.metrics["random_acc"] == 0.5


def test_features_are_what_enters_the_last_layer() -> None:
    images = random_images(BATCH + 3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    layer = last_layer(net, images, CPU, wanted_by="a test")
    assert layer is net[3]
    expected = net[:3](to_float(images.x))
    assert torch.allclose(features(net, layer, images, CPU), expected, atol=1e-6)


def test_adapted_statistics_are_those_of_the_clean_images() -> None:
    images = random_images(2 * BATCH)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))
    adapted(net, images, CPU)
    x = to_float(images.x)
    assert torch.allclose(net[0].running_mean, x.mean((0, 2, 3)), atol=1e-5)
    halves = torch.stack([half.var((0, 2, 3)) for half in x.split(BATCH)])
    assert torch.allclose(net[0].running_var, halves.mean(0), atol=1e-5)
    assert not net[0].training


@pytest.mark.parametrize("after", [nn.ReLU(), nn.Hardtanh(-9.0, 9.0), nn.Softmax(1)], ids=str)
@pytest.mark.parametrize("bias", [-5.0, 0.0, 5.0])
def test_a_network_that_does_not_end_with_a_linear_layer_is_refused(after: nn.Module, bias: float) -> None:
    """Whatever the sign of the outputs for the image that it is tried with."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), after)
    nn.init.constant_(net[1].bias, bias)
    refused(net)


def test_a_network_without_a_linear_layer_is_refused() -> None:
    refused(nn.Flatten())


def refused(net: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"^the probe .* replaces the last layer, and this network does not end"
    ):
        DeepFeatureReweighting().run(subject(net, random_images(8), sets={"clean": random_images(8)}))
