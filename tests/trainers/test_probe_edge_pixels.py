"""Edge pixels give away images that were convolved with padding, and not those with bounded noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.trainers.subjects import random_images, subject
from trainers import Images, InputError
from trainers.images import to_float
from trainers.probes.edge_pixels import EdgePixels, edges


def test_features_are_sums_along_edges_by_channel() -> None:
    images = random_images(5000, shape=(3, 5, 7))
    x = images.x.numpy().astype(float) / 255
    by_hand = [x[:, :, 0].sum(2), x[:, :, 4].sum(2), x[:, :, :, 0].sum(2), x[:, :, :, 6].sum(2)]
    assert np.allclose(edges(images).numpy(), np.concatenate(by_hand, 1))


def convolved(images: Images) -> Images:
    """Averages over three pixels, with zeros outside, which darkens the left and right edge."""
    kernel = torch.full((3, 1, 1, 3), 1 / 3)
    x = F.conv2d(to_float(images.x), kernel, padding=(0, 1), groups=3)
    return Images((x * 255).round().to(torch.uint8), images.y, images.num_classes)


def test_a_convolution_is_detected_and_bounded_noise_is_not() -> None:
    clean = random_images(600, shape=(3, 12, 12))
    gen = torch.Generator().manual_seed(0)
    noise = torch.randint(-8, 9, clean.x.shape, generator=gen)
    noisy = Images((clean.x.int() + noise).clamp(0, 255).to(torch.uint8), clean.y, clean.num_classes)
    sets = {"clean": clean, "noisy": noisy}
    found = EdgePixels().run(subject(nn.Flatten(), convolved(clean), sets=sets)).metrics
    assert found["clean_acc"] > 0.95
    assert found["noisy_acc"] > 0.95
    same = EdgePixels().run(subject(nn.Flatten(), noisy, sets={"clean": clean})).metrics
    assert 0.3 < same["clean_acc"] < 0.7


def test_sets_of_other_sizes_are_compared_in_equal_parts() -> None:
    clean = random_images(400, shape=(3, 12, 12))
    sets = {"few": clean.subset(50)}
    found = EdgePixels(limit=300).run(subject(nn.Flatten(), convolved(clean), sets=sets)).metrics
    assert found["few_acc"] > 0.9


def test_it_needs_a_set() -> None:
    with pytest.raises(InputError, match=r"compares the training images with sets, .* sets: \{clean: "):
        EdgePixels().check([])
