"""Memory of a GPU: too little of it has a name, and none stays in use after a training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from orchestrator.estimates import packing
from trainers import TrainSpec, fit
from trainers.gpu_profile import profile_trial, random_images
from trainers.loop import OutOfMemoryError
from trainers.trial import Trial

TRAIN = random_images(2000, (3, 32, 32), 10)
MB = 2**20


@pytest.fixture
def limited(gpu: torch.device) -> Iterator[int]:
    """Leaves 700 MB of the GPU to this process; the bytes in use before."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 700 * MB) / total)
    yield torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(1.0)


def spec(**settings: Any) -> TrainSpec:
    return TrainSpec.parse({"architecture": "resnet18", "epochs": 1, **settings}, "test")


def test_too_little_memory_has_a_name_and_the_next_training_works(limited: int, gpu: torch.device) -> None:
    with pytest.raises(OutOfMemoryError, match=r"out of memory on cuda.*batch_size 1024"):
        fit(spec(batch_size=1024), TRAIN, TRAIN, seed=0, device=gpu)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= limited + MB
    small = spec(architecture={"kind": "resnet18", "width": 4}, batch_size=64)
    fit(small, TRAIN, TRAIN, seed=0, device=gpu)


def test_a_training_leaves_no_memory_in_use(gpu: torch.device) -> None:
    found = []
    for seed in range(4):
        fit(spec(batch_size=512), TRAIN, TRAIN, seed=seed, device=gpu)
        found.append(torch.cuda.memory_allocated())
    assert found[1:] == found[:1] * 3


def test_a_profile_says_what_a_trial_uses(gpu: torch.device) -> None:
    wide, narrow = (
        profile_trial(
            Trial(train=spec(architecture={"kind": "resnet18", "width": w})), (3, 32, 32), 10, n, gpu
        )
        for w, n in ((64, 50_000), (4, 1_000))
    )
    assert 300 * MB < wide.peak_bytes < 4000 * MB
    assert narrow.peak_bytes < wide.peak_bytes
    assert 0 < narrow.busy < wide.busy <= 1
    assert 0 < narrow.step_seconds < 0.1
    assert 0 < wide.step_seconds < 0.1
    total = torch.cuda.get_device_properties(gpu).total_memory
    assert packing.share(narrow.peak_bytes, total, narrow.busy) < 1
