"""Transferable unlearnable noise against plain loops with automatic differentiation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poisons import CraftContext
from poisons.methods.em_noise import begin
from poisons.methods.tue import Tue, discriminant
from poisons.rng import rng
from poisons.sources.digits import Digits
from tests.conftest import CPU
from trainers import Images, InputError
from trainers.checkpoint import Checkpoint
from trainers.images import Extent
from trainers.softmax_regression import softmax_regression

QUIET = CraftContext(report=lambda _: None)
SMALL = Tue(steps=4, epochs=3, batch_size=16)


def plain(noise: Tensor, labels: Tensor) -> Tensor:
    """The discriminant class by class and pair by pair; gradients pass through the means alone."""
    means, spreads = {}, {}
    for k in labels.unique().tolist():
        mine = noise[labels == k]
        means[k] = mine.mean(0)
        spreads[k] = torch.stack([(one - means[k]).square().sum().sqrt() for one in mine]).mean().item()
    ratios = [
        (spreads[i] + spreads[j] + 1e-5) / ((means[i] - means[j]).square().sum().sqrt() + 1e-5)
        for i in means
        for j in means
        if i != j
    ]
    return torch.stack(ratios).mean()


def plain_gradient(noise: Tensor, labels: Tensor) -> Tensor:
    noise = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(noise, labels), noise)
    return gradient


def plainly_crafted(clean: Images, *, seed: int) -> tuple[Tensor, float]:
    """The noise of `SMALL` in levels, float64, from the same draws, and the discriminant of the last epoch."""
    eps, x = 8 / 255, clean.x.double() / 255
    start = rng(seed, "tue noise").initial_seed()
    noise = begin(tuple(x.shape), eps, CPU, random=True, seed=start).double()
    value = 0.0
    for epoch in range(3):
        order, value = torch.randperm(len(x), generator=rng(seed, f"tue order {epoch}")), 0.0
        for rows in order.split(16):
            labels, some = clean.y[rows], noise[rows]
            for _ in range(4):
                z = (x[rows] + some).clamp(0, 1)
                z = z - eps / 10 * plain_gradient(some.flatten(1), labels).view_as(some).sign()
                some = (z - x[rows]).clamp(-eps, eps)
            noise[rows] = some
            value += len(rows) / len(x) * plain(some.flatten(1), labels).item()
    return noise * 255, value


def levels(clean: Images, poison: Tue = SMALL, seed: int = 0) -> Tensor:
    return poison.craft(clean, seed=seed, context=QUIET).delta


@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 1, 1, 1), (1, 9), (2,) * 30])
def test_discriminant_and_gradient_are_those_of_plain_loops(sizes: tuple[int, ...]) -> None:
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=gen)]
    noise = 0.1 * torch.randn((len(labels), 20), generator=gen, dtype=torch.float64)
    value, gradient = discriminant(noise, labels, len(sizes))
    assert value.item() == pytest.approx(plain(noise, labels).item(), rel=1e-9)
    of_images = (gradient / labels.bincount()[:, None])[labels]
    wanted = plain_gradient(noise, labels)
    assert wanted.abs().min() > 1e-9
    assert torch.allclose(of_images, wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [0.0, 1e-30, 1e-12])
def test_means_that_coincide_give_finite_numbers(dtype: torch.dtype, apart: float) -> None:
    noise = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [apart, 0], [apart, 0]], dtype=dtype)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    value, gradient = discriminant(noise, labels, 3)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[:2].any() or apart
    value, gradient = discriminant(torch.zeros(4, 5, dtype=dtype), labels[:4], 2)
    assert value == pytest.approx(1)
    assert not gradient.any()


def test_the_noise_matches_a_plain_implementation(images: Images) -> None:
    """40 images make batches of 16, 16 and 8, of unequal classes, some of which a batch may lack."""
    uneven = Images(images.x, (torch.arange(40) ** 2 // 7) % 11, 11)
    crafted = SMALL.craft(uneven, seed=3, context=QUIET)
    wanted, value = plainly_crafted(uneven, seed=3)
    off = (crafted.delta - wanted).abs()
    assert (off > 0.5 + 1e-4).float().mean() < 1e-4  # float32 turns the sign of a few gradients near 0
    assert crafted.facts()["discriminant"] == pytest.approx(value, rel=1e-3)


def test_steps_lower_the_discriminant_of_each_epoch(images: Images) -> None:
    rows: list[dict[str, Any]] = []
    crafted = Tue(epochs=4, batch_size=20).craft(images, seed=0, context=CraftContext(report=rows.append))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert crafted.facts() == {"discriminant": rows[-1]["discriminant"]}
    gen = torch.Generator().manual_seed(0)
    at_first, _ = discriminant((torch.rand((40, 3072), generator=gen) - 0.5) / 16, images.y, 4)
    assert rows[0]["discriminant"] < at_first / 2


@pytest.mark.parametrize("value", [0, 255])
def test_noise_at_the_ends_of_the_range_stays_in_the_budget(value: int) -> None:
    """There the noise can move to one side only, and a class of noise differs from another by eps, not twice."""
    clean = Images(torch.full((40, 3, 8, 8), value, dtype=torch.uint8), torch.arange(40) % 4, 4)
    crafted = Tue(batch_size=20, epochs=4, eps="9/255").craft(clean, seed=0, context=QUIET)
    assert crafted.delta.abs().max() == 9
    moved = crafted.apply(clean).x.int() - value
    assert moved.abs().max() == 9
    assert 0 < (moved == 0).float().mean() < 0.9
    assert len(moved[clean.y == 0].unique(dim=0)) == 1, "a class has one noise on equal images"


def test_a_batch_of_one_class_keeps_its_noise(images: Images) -> None:
    """Its noise is that before the first step, but for clipping to the pixel range."""
    clean = Images(images.x, torch.full((40,), 2), 4)
    crafted = SMALL.craft(clean, seed=1, context=QUIET)
    start = rng(1, "tue noise").initial_seed()
    noise = begin(tuple(clean.x.shape), 8 / 255, CPU, random=True, seed=start)
    wanted = (clean.x / 255 + noise).clamp(0, 1) * 255
    assert (crafted.apply(clean).x - wanted).abs().max() <= 0.5 + 1e-4
    assert crafted.facts() == {"discriminant": 0}


def test_one_image_of_each_class(images: Images) -> None:
    clean = Images(images.x[:5], torch.tensor([4, 2, 0, 6, 1]), 7)
    found = levels(clean, Tue(epochs=2))
    wanted = levels(Images(clean.x[:1], clean.y[:1], 7), Tue(epochs=2))
    assert wanted.abs().max() == 8
    assert found.abs().float().mean() > 1.3 * wanted.abs().float().mean(), "images drive each other away"


def test_a_seed_gives_the_same_noise(images: Images) -> None:
    before = images.x.clone()
    assert torch.equal(levels(images), levels(images))
    assert not torch.equal(levels(images), levels(images, seed=1))
    assert torch.equal(images.x, before)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("damage", [{}, {"epoch": 3}, {"epoch": 0.5}, {"noise": torch.zeros(3)}])
def test_a_killed_crafting_resumes_with_the_next_epoch(
    damage: dict[str, Any], images: Images, tmp_path: Path
) -> None:
    """It starts again if the checkpoint is damaged. The noise is the same bit for bit."""
    rows: list[dict[str, Any]] = []

    def killed(row: dict[str, Any]) -> None:
        if row["epoch"] == 3:
            raise KilledError

    checkpoint, owner = Checkpoint(tmp_path / "checkpoint.pt", every=0), f"tue {SMALL.key}, seed 0"
    context = CraftContext(report=killed, checkpoint=checkpoint)
    with pytest.raises(KilledError):
        SMALL.craft(images, seed=0, context=context)
    state = checkpoint.load(owner=owner)
    assert state is not None
    assert state["epoch"] == 2
    checkpoint.save({"epoch": 2, "noise": state["noise"].clone(), **damage}, owner=owner)
    again = SMALL.craft(images, seed=0, context=replace(context, report=rows.append))
    assert [row["epoch"] for row in rows] == ([1, 2, 3] if damage else [3])
    assert len(checkpoint.warnings) == bool(damage)
    assert torch.equal(again.delta, levels(images))
    state = checkpoint.load(owner=owner)
    assert state is not None
    assert state["epoch"] == 2, "the last epoch needs no checkpoint"
    with pytest.raises(InputError, match="belongs to another training"):
        SMALL.craft(images, seed=1, context=context)


def accuracy_of_a_line(noise: Tensor, labels: Tensor) -> float:
    """The accuracy of a linear classifier, trained on one half of the noise, on the other."""
    x, half = noise.flatten(1).double(), len(noise) // 2
    x = x / x.std()
    weight, bias = softmax_regression(x[:half], labels[:half], 10, l2=1e-2, iterations=50)
    return ((x[half:] @ weight.mT + bias).argmax(1) == labels[half:]).double().mean().item()


def test_a_linear_classifier_reads_the_class_from_the_noise_of_digits() -> None:
    clean = Digits(size=16).load("train").take(torch.arange(600))
    noise = levels(clean, Tue(epochs=6))
    assert accuracy_of_a_line(noise, clean.y) > 0.99
    shuffled = noise[torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    assert accuracy_of_a_line(shuffled, clean.y) < 0.2
    changed = Tue(epochs=6).craft(clean, seed=0, context=QUIET).apply(clean).x.int() - clean.x.int()
    assert accuracy_of_a_line(changed, clean.y) > 0.99


def test_mistakes_have_names() -> None:
    with pytest.raises(InputError, match="a step of 0 changes nothing"):
        Tue.parse({"step": 0}, "test")
    with pytest.raises(InputError, match="eps must be between 1/255"):
        Tue.parse({"eps": "1/510"}, "test")
    with pytest.raises(InputError, match="tue: noise is crafted from images, and there are none"):
        Tue().check(Extent(0, (3, 8, 8), 4))
