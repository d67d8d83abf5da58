"""Perturbation-induced linearisation against automatic differentiation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from poisons import CraftContext
from poisons.methods import pil
from poisons.methods.pil import Pil, noise_gradient
from tests.conftest import CPU
from trainers import Images, InputError
from trainers.feed import feed
from trainers.loop import DivergenceError, generator

QUIET = CraftContext(report=lambda _: None)


def low_contrast(n: int) -> Images:
    """Images in the middle of the range; those of a class have one quarter that is a little brighter."""
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    x = 100 + torch.randint(-20, 21, (n, 3, 8, 8), generator=gen)
    for k in range(4):
        x[y == k, :, 4 * (k // 2) :, 4 * (k % 2) :] += 20
    return Images(x.to(torch.uint8), y, 4)


def test_the_gradient_is_that_of_the_published_loss() -> None:
    gen = torch.Generator().manual_seed(0)
    weights = torch.randn((4, 48), generator=gen, dtype=torch.float64)
    x = torch.rand((6, 3, 4, 4), generator=gen, dtype=torch.float64)
    labels = torch.arange(6) % 4
    noise = (0.1 * torch.randn(x.shape, generator=gen, dtype=torch.float64)).requires_grad_()
    p = F.softmax((x - noise).flatten(1) @ weights.mT, 1)
    uniform = torch.full_like(p, 1 / 4)
    loss = 0.9 * F.cross_entropy(noise.flatten(1) @ weights.mT, labels, reduction="sum")
    loss = loss + 0.1 * F.kl_div(p.log(), uniform, reduction="sum")
    (wanted,) = torch.autograd.grad(loss, noise)
    assert torch.allclose(noise_gradient(weights, x, labels, noise.detach(), 0.9), wanted, atol=1e-12)


def test_noise_is_that_of_a_plain_loop() -> None:
    """Signed steps along automatic gradients, in float64, from the same start, against the same classifier.
    Signs of gradients that are nearly 0 may differ."""
    clean = low_contrast(40)
    poison = Pil(linear_batch_size=16, linear_epochs=3)
    crafted = poison.craft(clean, seed=2, context=QUIET).delta.double()
    weights = poison._classifier(clean, 2, QUIET)[0].double()
    eps, found = float(poison.eps), []
    for batch, some in enumerate(torch.arange(40).split(16)):
        x, labels = clean.x[some].double() / 255, clean.y[some]
        noise = poison._begin(clean.take(some), 2, batch).double()
        for _ in range(30):
            noise.requires_grad_()
            p = F.softmax((x - noise).flatten(1) @ weights.mT, 1)
            loss = 0.9 * F.cross_entropy(noise.flatten(1) @ weights.mT, labels, reduction="sum")
            loss = loss + 0.1 * F.kl_div(p.log(), torch.full_like(p, 1 / 4), reduction="sum")
            (grad,) = torch.autograd.grad(loss, noise)
            noise = (noise.detach() - eps / 10 * grad.sign()).clamp(-eps, eps)
        found.append((-noise * 255).round())
    assert crafted.abs().max() == 8
    assert (crafted != torch.cat(found)).double().mean() < 0.01


def test_a_linear_classifier_reads_the_noise_and_not_the_image() -> None:
    clean = low_contrast(200)
    pil = Pil(linear_batch_size=64, linear_epochs=100, linear_lr=0.02)
    crafted = pil.craft(clean, seed=0, context=QUIET)
    assert crafted.delta.abs().max() == 8
    assert crafted.facts()["linear_accuracy"] > 0.3
    weights, _ = pil._classifier(clean, 0, QUIET)
    noise = -crafted.delta.float() / 255
    assert ((noise.flatten(1) @ weights.mT).argmax(1) == clean.y).float().mean() > 0.95
    before = (clean.x.float() / 255).flatten(1) @ weights.mT
    after = (crafted.apply(clean).x.float() / 255).flatten(1) @ weights.mT
    assert after.softmax(1).std(1).mean() < before.softmax(1).std(1).mean()


def test_the_classifier_does_not_see_the_images_in_the_order_of_a_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean, orders = low_contrast(100), list[torch.Tensor]()

    def seen(images: Images, size: int, device: torch.device, order: torch.Tensor) -> Any:
        orders.append(order)
        return feed(images, size, device, order)

    monkeypatch.setattr(pil, "feed", seen)
    Pil(linear_epochs=3)._classifier(clean, 0, QUIET)
    trained = [torch.randperm(100, generator=generator(CPU, 0, epoch)) for epoch in range(4)]
    assert len(orders) == 3
    assert not any(torch.equal(order, other) for order in orders for other in trained)


def test_a_seed_gives_the_same_noise() -> None:
    clean = low_contrast(100)
    one, again = (
        Pil(steps=3, linear_epochs=1, linear_batch_size=32).craft(clean, seed=4, context=QUIET)
        for _ in range(2)
    )
    other = Pil(steps=3, linear_epochs=1, linear_batch_size=32).craft(clean, seed=5, context=QUIET)
    assert torch.equal(one.delta, again.delta)
    assert not torch.equal(one.delta, other.delta)


def test_mistakes_have_names() -> None:
    with pytest.raises(InputError, match="a step of 0 changes nothing"):
        Pil.parse({"step": 0}, "test")
    with pytest.raises(DivergenceError, match="pil: the linear classifier diverged; try a smaller linear_lr"):
        Pil(linear_lr=1e30, linear_epochs=4).craft(low_contrast(40), seed=0, context=QUIET)
