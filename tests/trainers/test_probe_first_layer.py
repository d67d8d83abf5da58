"""The first layer's response is the output of the first convolution, position by position."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import CPU
from tests.trainers.subjects import doubles, random_images, subject
from trainers import Images, InputError
from trainers.families import Architecture, Normalised
from trainers.images import to_float
from trainers.probe import metrics_of
from trainers.probes.first_layer import FirstLayer, changed, first_convolution, peak_share


def naive(images: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, stride: int, pad: int) -> np.ndarray:
    """A convolution by its definition: N,K,H',W' in float64, of images in [0, 1] that are normalised as
    networks do it."""
    x = np.pad((images - 0.5) * 4, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    k, _, h, w = weight.shape
    rows, columns = (x.shape[2] - h) // stride + 1, (x.shape[3] - w) // stride + 1
    out = np.empty((len(x), k, rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i * stride : i * stride + h, j * stride : j * stride + w]
            out[:, :, i, j] = np.tensordot(patch, weight, ([1, 2, 3], [1, 2, 3])) + bias
    return out


@pytest.mark.parametrize(("stride", "pad", "channels"), [(1, 1, 3), (2, 0, 1)])
def test_the_response_matches_a_naive_convolution(stride: int, pad: int, channels: int) -> None:
    images = random_images(8, (channels, 7, 9))
    conv = nn.Conv2d(channels, 5, 3, stride=stride, padding=pad)
    model = Normalised(nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    found = FirstLayer(limit=None, pictured=4, channels=2).run(subject(model, images))
    weight, bias = doubles(conv.weight), doubles(conv.bias)
    maps = naive(doubles(images.x) / 255, weight, bias, stride=stride, pad=pad)
    response = np.abs(maps).mean(1)
    shares = [one.max() / one.sum() for one in response]
    assert found.metrics == {"peak_share": pytest.approx(np.mean(shares), rel=1e-5)}
    shown = images.balanced(4).tolist()
    assert [picture["label"] for picture in found.fields["images"]] == [int(images.y[i]) for i in shown]
    for i, picture in zip(shown, found.fields["images"], strict=True):
        assert picture["pixels"] == images.x[i].permute(1, 2, 0).tolist()
        assert np.allclose(picture["response"], response[i], rtol=1e-3)
        order = np.argsort(-np.abs(maps[i]).mean((1, 2)))[:2]
        assert np.allclose(picture["channels"], maps[i][order], rtol=1e-3, atol=1e-3)
    assert np.allclose(found.fields["filters"], weight.transpose(0, 2, 3, 1), rtol=1e-3)
    assert json.loads(json.dumps(found.fields, allow_nan=False)) == found.fields


def test_one_bright_pixel_takes_the_share_that_its_filter_gives_it() -> None:
    """A network that responds to red only and not to grey: its whole response is at the pixel."""
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    x[:, 0, 2, 5] = 255
    conv = nn.Conv2d(3, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    model, images = nn.Sequential(conv, nn.Flatten()), Images(x, torch.arange(4), 4)
    found = FirstLayer().run(subject(model, images))
    assert found.metrics["peak_share"] == 1
    assert np.argwhere(np.array(found.fields["images"][0]["response"])).tolist() == [[2, 5]]
    nine = nn.Conv2d(3, 1, 3, padding=1, bias=False)
    nn.init.ones_(nine.weight)
    found = FirstLayer().run(subject(nn.Sequential(nine, nn.Flatten()), images))
    assert found.metrics["peak_share"] == pytest.approx(1 / 9)


def test_a_response_that_is_even_has_an_even_share() -> None:
    assert peak_share(torch.ones(2, 4, 5)).tolist() == pytest.approx([1 / 20] * 2)
    assert peak_share(torch.zeros(1, 4, 5)).tolist() == [pytest.approx(1 / 20)]
    grey = Images(torch.full((4, 3, 6, 6), 77, dtype=torch.uint8), torch.arange(4), 4)
    conv = nn.Conv2d(3, 2, 3, bias=False)
    found = FirstLayer().run(subject(nn.Sequential(conv, nn.Flatten()), grey))
    assert found.metrics["peak_share"] == pytest.approx(1 / 16, rel=1e-5)


@pytest.mark.parametrize(("stride", "pad", "dilation"), [(1, 1, 1), (2, 3, 1), (1, "same", 2), (3, 0, 2)])
def test_a_change_is_where_the_filter_sees_it(stride: int, pad: int | str, dilation: int) -> None:
    """Against the answers themselves: a position sees the pixel if and only if its answer moves."""
    clean = random_images(12, (3, 11, 9))
    x = clean.x.clone()
    for i in range(12):
        x[i, i % 3, (i * 5) % 11, (i * 7) % 9] += 100
    conv = nn.Conv2d(3, 4, 3, stride=stride, padding=pad, dilation=dilation)
    with torch.no_grad():
        moved = (conv(to_float(x)) - conv(to_float(clean.x))).abs().amax(1) > 1e-5
    assert torch.equal(changed(Images(x, clean.y, 4), clean, conv), moved)
    assert moved.any()


def test_it_counts_the_images_whose_largest_response_is_the_change() -> None:
    """A red pixel in all images and a green one in half of them, looked at by networks of one colour."""
    clean = Images(torch.full((8, 3, 6, 6), 100, dtype=torch.uint8), torch.arange(8) % 4, 4)
    red, green = clean.x.clone(), clean.x.clone()
    red[:, 0, 2, 2] = 200
    green[4:, 1, 5, 5] = 200
    sets = {"clean": clean, "red": Images(red, clean.y, 4), "green": Images(green, clean.y, 4)}
    for channel, known in enumerate(([0, 1, 0], [0, 0, 0.5], [0, 0, 0])):
        conv = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.zeros_(conv.weight).data[0, channel] = 1
        found = FirstLayer(limit=None).run(subject(nn.Sequential(conv, nn.Flatten()), clean, sets=sets))
        assert list(found.metrics)[1:] == ["clean_at_change", "red_at_change", "green_at_change"]
        assert list(found.metrics.values())[1:] == known
        assert set(found.metrics) == set(metrics_of(FirstLayer(), sets))


def test_sets_without_the_clean_one_or_with_another_are_refused() -> None:
    images, other = random_images(8), random_images(12)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    with pytest.raises(InputError, match="with 'ops' it needs a set 'clean'"):
        FirstLayer().check(["ops"])
    FirstLayer().check([])
    FirstLayer().check(["clean", "ops"])
    with pytest.raises(InputError, match="does not hold the images under the set 'ops'"):
        FirstLayer().run(subject(model, images, sets={"clean": images, "ops": other}))


def test_it_uses_the_chosen_split_and_a_balanced_part_of_it() -> None:
    train, test = random_images(30), random_images(24)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 4))
    one = FirstLayer(on="test", limit=12, pictured=4).run(subject(model, train, test))
    same = FirstLayer(limit=None, pictured=4).run(subject(model, test.subset(12)))
    assert one.metrics == same.metrics
    assert sorted(picture["label"] for picture in one.fields["images"]) == [0, 1, 2, 3]
    assert one.metrics != FirstLayer(limit=12).run(subject(model, train, test)).metrics


class Backwards(nn.Module):
    """Names its convolutions in another order than it uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.late, self.early = nn.Conv2d(4, 2, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.late(self.early(x)).mean((2, 3))


def test_the_first_convolution_is_the_first_in_the_forward_pass() -> None:
    model = Backwards().eval()
    assert first_convolution(model, random_images(2), CPU) is model.early
    assert not model.early._forward_hooks


@pytest.mark.parametrize("member", Architecture.registry.values(), ids=lambda m: m.kind)
def test_every_architecture_has_a_first_layer(member: type[Architecture]) -> None:
    images = random_images(4, (3, 32, 32))
    model = member.parse(member.smoke, "test").network(num_classes=4, shape=(3, 32, 32), seed=0)
    found = FirstLayer(limit=2, pictured=1).run(subject(model, images))
    filters = np.array(found.fields["filters"])
    assert filters.shape[3] == 3
    height, width = np.array(found.fields["images"][0]["response"]).shape
    assert 1 / (height * width) <= found.metrics["peak_share"] <= 1


def test_a_network_without_convolutions_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(InputError, match="this network has none: leave the probe out, or choose"):
        FirstLayer().run(subject(model, random_images(4)))


def test_a_network_that_pads_its_input_refuses_sets() -> None:
    images = random_images(8, (3, 8, 8))
    conv = nn.Conv2d(3, 4, 3, stride=2)
    model = nn.Sequential(nn.ZeroPad2d(1), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert FirstLayer(limit=None).run(subject(model, images)).metrics["peak_share"] > 0
    with pytest.raises(InputError, match="which pads or resizes images before its first convolution: leave"):
        FirstLayer(limit=None).run(subject(model, images, sets={"clean": images, "ops": images}))
