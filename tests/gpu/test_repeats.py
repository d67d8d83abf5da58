"""A training on a GPU gives the same bits again, streamed from the host, resumed, and in a warm process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.feed
from tests.gpu.numbers import equal, weights
from trainers import TrainSpec, fit
from trainers.checkpoint import Checkpoint
from trainers.families import Architecture, Metrics
from trainers.gpu_profile import random_images
from trainers.process_state import reset_process_state

TRAIN, TEST = random_images(500, (3, 32, 32), 10), random_images(250, (3, 32, 32), 10)
RESNET: dict[str, Any] = {"architecture": {"kind": "resnet18", "width": 16}}
CASES: dict[str, dict[str, Any]] = {
    kind: {"architecture": {"kind": kind, **member.smoke}} for kind, member in Architecture.registry.items()
} | {
    "resnet18": RESNET,
    "pgd_at": {**RESNET, "defense": {"kind": "pgd_at", "steps": 3}},
    "uda": {**RESNET, "augmentations": ["uda_augment"]},
    "average": {**RESNET, "ema": 0.9},
}


def trained(name: str, device: torch.device, **options: Any) -> list[torch.Tensor]:
    spec = TrainSpec.parse({**CASES[name], "epochs": 2, "batch_size": 96}, name)
    return weights(fit(spec, TRAIN, TEST, seed=0, device=device, **options).model)


@pytest.mark.parametrize("name", CASES)
def test_again(name: str, device: torch.device) -> None:
    first = trained(name, device)
    torch.rand(7, device=device)
    assert equal(first, trained(name, device))


@pytest.mark.parametrize("name", ["resnet18", "pgd_at"])
def test_streamed_from_the_host(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = trained(name, device)
    monkeypatch.setattr(trainers.feed, "SHARE", -1.0)
    assert equal(resident, trained(name, device))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", ["resnet18", "average", "uda"])
def test_resumed_from_a_checkpoint(name: str, device: torch.device, tmp_path: Path) -> None:
    whole = trained(name, device)

    def killed(row: Metrics) -> None:
        if row["epoch"] == 2:
            raise KilledError

    file = tmp_path / "checkpoint.pt"
    with pytest.raises(KilledError):
        trained(name, device, checkpoint=Checkpoint(file, every=0), report=killed)
    rows: list[Metrics] = []
    assert equal(whole, trained(name, device, checkpoint=Checkpoint(file, every=0), report=rows.append))
    assert [row["epoch"] for row in rows] == [1, 2]


def test_after_other_trainings_in_the_same_process(device: torch.device) -> None:
    first = trained("resnet18", device)
    for name in ("pgd_at", "vgg16_bn"):
        trained(name, device)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    reset_process_state()
    assert equal(first, trained("resnet18", device))
