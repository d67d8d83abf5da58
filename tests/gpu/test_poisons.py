"""Poisons crafted on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from poisons import CraftContext, Poison
from poisons.methods.em import Em
from tests.gpu.numbers import CPU
from trainers import Images
from trainers.families import Defense
from trainers.gpu_profile import random_images
from trainers.loop import generator
from trainers.preprocessing import Preprocessing
from trainers.restoration import Restoration, RestorationContext

CLEAN = random_images(300, (3, 32, 32), 10)
KINDS = [kind for kind, member in Poison.registry.items() if kind != "imported" and not member.wants_gpu]
NETWORKS = [kind for kind, member in Poison.registry.items() if member.wants_gpu]
RESTORE = [kind for kind, member in Defense.registry.items() if issubclass(member, Restoration)]
PREPARE = [kind for kind, member in Defense.registry.items() if issubclass(member, Preprocessing)]


@pytest.fixture
def learnable() -> Images:
    """80 images of 4 classes that differ in colour, which a surrogate learns."""
    y = torch.arange(80) % 4
    x = torch.randint(40, 120, (80, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    for k in range(3):
        x[y == k, k] += 90
    return Images(x.to(torch.uint8), y, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_those_of_the_processor(kind: str, device: torch.device) -> None:
    poison = Poison.parse({"kind": kind, **Poison.registry[kind].smoke}, "test")
    here, there = (
        poison.craft(CLEAN, seed=0, context=CraftContext(device=d)).apply(CLEAN).x for d in (CPU, device)
    )
    assert torch.equal(here, there.cpu())


@pytest.mark.parametrize(
    "more", [{}, {"granularity": "class_wise"}, {"random_start": True, "augmentations": ["flip_crop"]}]
)
def test_error_minimising_noise(more: dict[str, Any], device: torch.device) -> None:
    """Within the budget, and the same bits again."""
    em = Em.parse({**Em.smoke, "max_rounds": 3, **more}, "test")
    first, again = (em.craft(CLEAN, seed=0, context=CraftContext(device=device)) for _ in range(2))
    assert first.delta.abs().max() <= 8
    assert first.delta.any()
    if not more.get("augmentations"):
        assert torch.equal(first.delta.cpu(), again.delta.cpu())


@pytest.mark.parametrize("kind", PREPARE)
def test_prepared_images_are_those_of_the_processor(kind: str, device: torch.device) -> None:
    """Within one level, in one value of a thousand: sums in another order are rounded to another level."""
    defense = Defense.parse({"kind": kind, **Defense.registry[kind].smoke}, "test")
    here, there = (
        defense.prepare(CLEAN, device=d, gen=generator(CPU, 0), report=lambda _: None).x.cpu().int()
        for d in (CPU, device)
    )
    off = (here - there).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() <= 1e-3


@pytest.mark.parametrize("kind", NETWORKS)
def test_noise_of_networks_repeats(kind: str, device: torch.device, learnable: Images) -> None:
    poison = Poison.parse({"kind": kind, **Poison.registry[kind].smoke}, "test")
    first, again = (
        poison.craft(learnable, seed=0, context=CraftContext(device=device)).apply(learnable).x
        for _ in range(2)
    )
    assert torch.equal(first.cpu(), again.cpu())


@pytest.mark.parametrize("kind", RESTORE)
def test_restored_images_repeat(kind: str, device: torch.device) -> None:
    defense = Defense.parse({"kind": kind, **Defense.registry[kind].smoke}, "test")
    assert isinstance(defense, Restoration)
    first, again = (defense.restore(CLEAN, None, RestorationContext(device)).images.x for _ in range(2))
    assert torch.equal(first, again)
