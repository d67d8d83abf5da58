"""Training steps on a GPU: every plug-in takes them, none makes the host wait, and the processor agrees."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.gpu.numbers import CPU, apart, weights
from trainers import Images, TrainSpec
from trainers.families import Architecture, Augmentation, Defense, Optimizer, cross_entropy
from trainers.images import to_float
from trainers.loop import Training, generator, prepared, train_step
from trainers.pgd import Budget, Frozen, pgd
from trainers.recipe import repeatable

SMALL: dict[str, Any] = {"kind": "resnet18", "width": 4}
BUDGETS = ({"norm": "Linf", "eps": "8/255"}, {"norm": "L2", "eps": "1/2"})


def recipes() -> dict[str, dict[str, Any]]:
    """A recipe for each plug-in, and for each defense with a budget in both norms."""
    found: dict[str, dict[str, Any]] = {
        f"architecture {kind}": {"architecture": {"kind": kind, **member.smoke}}
        for kind, member in Architecture.registry.items()
    }
    for kind, augmentation in Augmentation.registry.items():
        found[f"augmentation {kind}"] = {"augmentations": [{"kind": kind, **augmentation.smoke}]}
    for kind, defense in Defense.registry.items():
        settings = {"kind": kind, **defense.smoke}
        if "budget" in defense.model_fields:
            found |= {f"{kind} {b['norm']}": {"defense": {**settings, "budget": b}} for b in BUDGETS}
        else:
            found[f"defense {kind}"] = {"defense": settings}
    found |= {f"optimizer {kind}": {"optimizer": kind} for kind in Optimizer.registry}
    found["average, clipping, smoothing"] = {"ema": 0.9, "clip_norm": 1.0, "label_smoothing": 0.1}
    return found


@pytest.mark.parametrize("name", recipes())
def test_a_step_does_not_wait_for_the_gpu(name: str, device: torch.device, noise: Images) -> None:
    recipe = {"architecture": SMALL, "augmentations": [], **recipes()[name], "batch_size": 16}
    spec = TrainSpec.parse(recipe, name)
    with repeatable():
        images = prepared(spec, noise, seed=0, device=device).to(device)
        training, gen = Training.begin(spec, images, seed=0, device=device), generator(device, 0)
        training.model.train()
        defense = spec.defense.at(0.5)
        for i in range(3):
            if device.type == "cuda" and i == 2:  # the first steps select algorithms
                torch.cuda.set_sync_debug_mode("error")
            x, y = to_float(images.x[:16]), spec.targets(images.y[:16], 10)
            loss, _ = train_step(training, training.model, x, y, gen, lr=0.01, defense=defense)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(loss.item())


@pytest.mark.parametrize("kind", Architecture.registry)
def test_a_float32_step_agrees_with_the_processor(kind: str, device: torch.device, noise: Images) -> None:
    """The weights after a step are apart by a thousandth of how far they moved, at most."""
    network = {"kind": kind, **Architecture.registry[kind].smoke}
    recipe = {"architecture": network, "augmentations": [], "optimizer": "sgd", "precision": "float32"}
    spec, ends = TrainSpec.parse(recipe, kind), []
    for place in (CPU, device):
        with repeatable():
            training = Training.begin(spec, noise, seed=0, device=place)
            before = weights(training.model)
            for module in training.model.modules():  # but for dropout, whose draws differ between devices
                module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
            images = noise.to(place)
            y = spec.targets(images.y, 10)
            train_step(training, training.model, to_float(images.x), y, generator(place, 0), lr=0.1)
            ends.append(weights(training.model))
    assert apart(*ends) < 1e-3 * apart(ends[0], before)


def test_adversarial_inputs_agree_with_the_processor(device: torch.device, noise: Images) -> None:
    """Gradients of random networks have values near zero, whose sign may differ: few, in float32."""
    spec = TrainSpec.parse({"architecture": SMALL, "precision": "float32"}, "test")
    found = []
    for place in (CPU, device):
        with repeatable():
            model = Training.begin(spec, noise, seed=0, device=place).model
            x, y = to_float(noise.x).to(place), noise.y.to(place)
            with Frozen(model):
                found.append(
                    pgd(
                        model,
                        x,
                        y,
                        Budget(),
                        steps=1,
                        step=0.01,
                        loss=cross_entropy,
                        gen=generator(place, 0),
                        start=torch.zeros_like(x),
                    ).cpu()
                )
    assert ((found[0] - found[1]).abs() > 1e-4).float().mean() < 1e-3
