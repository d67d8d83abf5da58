"""What runs on a GPU: `make gpu-test`. Tests are skipped where there is none.

With OPSCTL_TEST_DEVICE=cpu they run on the processor instead, which tests the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainers.gpu_profile import random_images
from trainers.images import Images

HERE = Path(__file__).parent


def pytest_itemcollected(item: pytest.Item) -> None:
    if HERE in item.path.parents:
        item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> Iterator[torch.device]:
    device = torch.device(os.environ.get("OPSCTL_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    yield device
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """A GPU itself, not what stands in for one: its memory is measured."""
    if device.type != "cuda":
        pytest.skip("a processor has no GPU memory to measure")
    return device


@pytest.fixture
def noise() -> Images:
    """64 images of noise, of 10 classes."""
    return random_images(64, (3, 32, 32), 10)
