"""No training on a CPU writes past its memory in strided 1x1 convolutions, and their values stay the same."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainers.strided import subsample_first

TRAIN = """
import torch
from trainers.architectures.resnet import ResNet18
from trainers.gpu_profile import advance, random_images, training_steps
from trainers.loop import Training
from trainers.recipe import TrainSpec

torch.set_num_threads(1)
device, images = torch.device("cpu"), random_images(32, (3, 16, 16), 10)
spec = TrainSpec(architecture=ResNet18(width=4), batch_size=8, precision="float32", augmentations=())
advance(training_steps(Training.begin(spec, images, seed=0, device=device), images, device), 8, device)
"""


def test_a_narrow_network_trains_without_damage_to_the_heap() -> None:
    """glibc checks the heap here, and fills it, so that damage ends the process."""
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    if subprocess.run(["true"], env=os.environ | checks, capture_output=True).stderr:
        pytest.skip("this machine has no libc_malloc_debug.so.0")
    run = subprocess.run(
        [sys.executable, "-c", TRAIN],
        env=os.environ | checks | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("channels", [1, 4, 7, 12])
@pytest.mark.parametrize("stride", [2, (1, 3), 4])
def test_values_and_gradients_are_those_of_the_convolution(
    channels: int, stride: int | tuple[int, int]
) -> None:
    plain = nn.Conv2d(channels, 20, 1, stride=stride, dtype=torch.float64)
    layer = copy.deepcopy(plain)
    subsample_first(layer)
    x = torch.rand(5, channels, 9, 6, dtype=torch.float64)
    expected, found = _run(plain, x), _run(copy.deepcopy(layer), x)
    assert layer.stride == (1, 1)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(expected, found, strict=True))
    assert list(layer.state_dict()) == list(plain.state_dict())


def test_other_convolutions_stay_as_they_are() -> None:
    others = (
        nn.Conv2d(4, 8, 3, 2),
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(16, 8, 1, 2),
        nn.Conv2d(4, 8, 1, 2, padding=1),
    )
    for layer in others:
        stride = layer.stride
        subsample_first(layer)
        assert layer.stride == stride
        assert not layer._forward_pre_hooks


def _run(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    return y.detach(), x.grad, layer.weight.grad, layer.bias.grad
