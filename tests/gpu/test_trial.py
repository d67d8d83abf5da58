"""Whole trials on a GPU: evaluation, attacks, probes, compiled networks, precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainers import Images, TrainSpec, fit
from trainers.evaluate import accuracy, robust_accuracy
from trainers.families import Architecture, Attack
from trainers.gpu_profile import random_images
from trainers.loop import Training, arithmetic_of, generator
from trainers.pgd import Frozen
from trainers.probe import Probe, ProbeRun
from trainers.trial import Trial

TRAIN, TEST = random_images(400, (3, 32, 32), 10), random_images(200, (3, 32, 32), 10)
SMALL: dict[str, Any] = {"architecture": {"kind": "resnet18", "width": 4}, "epochs": 2, "batch_size": 64}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("kind", Attack.registry)
def test_attacks(kind: str, norm: str, device: torch.device) -> None:
    if kind == "auto_attack":
        pytest.importorskip("pyautoattack")
    eps = "1/2" if norm == "L2" else "8/255"
    settings = {"kind": kind, **Attack.registry[kind].smoke, "budget": {"norm": norm, "eps": eps}}
    evaluation = {"attacks": [settings], "attack_limit": 64}
    _, record = Trial.parse({"train": SMALL, "evaluation": evaluation}, "test").run(
        TRAIN, TEST, device=device
    )
    found = [
        value for name, value in record["metrics"].items() if name.endswith(f"{eps.replace('/', '_')}_acc")
    ]
    assert len(found) == 1
    assert 0 <= found[0] <= 1
    assert record["device"].startswith(device.type)


@pytest.mark.parametrize("kind", Probe.registry)
def test_probes(kind: str, device: torch.device) -> None:
    probe = Probe.parse({"kind": kind, **Probe.registry[kind].smoke}, "test")
    changed = Images((TRAIN.x.int() + 3).clamp(0, 255).to(torch.uint8), TRAIN.y, 10)
    sets = dict.fromkeys(probe.needs, changed) or {"other": changed}
    run = ProbeRun(kind, probe, sets)
    record = Trial.parse({"train": SMALL}, "test").run(TRAIN, TEST, device=device, probe_runs=[run])[1]
    assert set(probe.metrics) <= set(record["findings"][kind]["metrics"])


@pytest.mark.parametrize("kind", Architecture.registry)
def test_bfloat16_is_computed_correctly(kind: str, device: torch.device) -> None:
    """As published sizes; where it is not, `auto` takes float32, and this test says so."""
    member = Architecture.registry[kind]
    settings = {"kind": kind, **(member.smoke if kind in ("timm", "torchvision") else {})}
    spec = TrainSpec.parse({"architecture": settings, "precision": "auto"}, "test")
    found = arithmetic_of(spec, TRAIN, TEST, device, attacked=64)
    assert found.fallback is None


@pytest.mark.parametrize("execution", ["compiled", "cuda_graphs"])
def test_compiled_networks(execution: str, device: torch.device) -> None:
    for width in (4, 8):
        recipe = {**SMALL, "architecture": {"kind": "resnet18", "width": width}, "execution": execution}
        model = fit(TrainSpec.parse(recipe, "test"), TRAIN, TEST, seed=0, device=device)
        assert 0 <= model.history[-1]["test/clean_acc"] <= 1


def test_a_weaker_network_under_attack(device: torch.device) -> None:
    """An attack lowers the accuracy of a trained network."""
    spec = TrainSpec.parse({**SMALL, "epochs": 20, "augmentations": []}, "test")
    model = fit(spec, TRAIN, TRAIN, seed=0, device=device).model
    with Frozen(model), spec.autocast(device):
        attack = Attack.parse("pgd", "test")
        left = robust_accuracy(model, TRAIN.to(device), attack, generator(device, 0))
    assert accuracy(model, TRAIN.to(device), device) > 0.9
    assert left < 0.2


def test_initial_weights_do_not_depend_on_the_device(device: torch.device) -> None:
    spec = TrainSpec.parse(SMALL, "test")
    here, there = (
        Training.begin(spec, TRAIN, seed=3, device=d).model.state_dict()
        for d in (torch.device("cpu"), device)
    )
    assert all(torch.equal(a, there[name].cpu()) for name, a in here.items())
