"""Budgets hold, attacks reach them, and no weight's gradient is formed on the way."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from poisons.sources.digits import Digits
from tests.conftest import CPU
from trainers import Budget, InputError, TrainSpec, fit
from trainers.defenses.fast_at import FastAt
from trainers.defenses.pgd_at import PgdAt
from trainers.defenses.trades import Trades, divergence, log_probabilities
from trainers.families import cross_entropy
from trainers.images import Images, to_float
from trainers.pgd import Frozen, Norm, input_gradient, pgd, step_size


def length(delta: torch.Tensor, norm: Norm) -> torch.Tensor:
    flat = delta.double().flatten(1)
    return flat.abs().amax(1) if norm == "Linf" else flat.square().sum(1).sqrt()


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["Linf", "L2"]), st.integers(1, 255), st.integers(0, 2**31))
def test_a_projection_is_inside_and_moves_nothing_that_is_inside(norm: Norm, levels: int, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    budget, x = Budget(norm=norm, eps=Fraction(levels, 255)), torch.rand(4, 3, 5, 5, generator=gen)
    delta = budget.project(torch.randn(x.shape, generator=gen), x)
    assert (length(delta, norm) <= levels / 255 * (1 + 1e-5) + 1e-6).all()
    assert 0 <= (x + delta).min() <= (x + delta).max() <= 1
    assert torch.allclose(budget.project(delta, x), delta, atol=1e-6)
    start = budget.random(x, gen)
    assert (length(start, norm) <= levels / 255 * (1 + 1e-5) + 1e-6).all()


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Images]:
    """A small network that reads digits of half the contrast, so that the box [0, 1] stops no attack."""
    digits = Digits().load("train")
    images = Images(digits.x // 2 + 64, digits.y, 10)
    settings = {
        "architecture": "lenet5",
        "epochs": 8,
        "batch_size": 64,
        "optimizer": {"kind": "sgd", "lr": 0.05},
    }
    spec = TrainSpec.parse({**settings, "augmentations": [], "schedule": "one_cycle"}, "test")
    result = fit(spec, images, images, seed=0, device=CPU)
    assert result.history[-1]["test/clean_acc"] > 0.9
    return result.model.eval(), images.take(torch.arange(200))


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "8/255"), ("L2", "1/2"), ("L2", "1"), ("L2", "2")])
def test_the_default_step_reaches_the_budget(trained: tuple[nn.Module, Images], norm: Norm, eps: str) -> None:
    model, images = trained
    budget = Budget.parse({"norm": norm, "eps": eps}, "test")
    x, gen = to_float(images.x), torch.Generator().manual_seed(0)
    x_adv = PgdAt(budget=budget).perturb(model, x, images.y, gen)
    moved = length(x_adv - x, norm)
    assert (moved <= float(budget.eps) * (1 + 1e-5)).all()
    assert (moved >= 0.9 * float(budget.eps)).all()
    with torch.no_grad():
        assert cross_entropy(model(x_adv), images.y) > cross_entropy(model(x), images.y)


def test_linf_is_exact_after_clamping(trained: tuple[nn.Module, Images]) -> None:
    """At the edges of the pixel range too, in float64: no pixel value is further away than 8/255."""
    model, images = trained
    x = to_float(torch.where(images.x > 100, 255, 0).to(torch.uint8))
    x_adv = PgdAt().perturb(model, x, images.y, torch.Generator().manual_seed(1))
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert (x_adv.double() - x.double()).abs().max() <= 8 / 255 + 1e-7
    assert (x_adv - x).abs().max() == pytest.approx(8 / 255)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "8/255"), ("L2", "1")])
def test_more_steps_make_a_stronger_attack(trained: tuple[nn.Module, Images], norm: Norm, eps: str) -> None:
    model, images = trained
    budget, gen = Budget.parse({"norm": norm, "eps": eps}, "test"), torch.Generator().manual_seed(0)
    x = to_float(images.x)

    def loss(x_adv: torch.Tensor) -> float:
        with torch.no_grad():
            return cross_entropy(model(x_adv), images.y).item()

    one, ten = FastAt(budget=budget), PgdAt(budget=budget)
    assert loss(x) < loss(one.perturb(model, x, images.y, gen)) <= loss(ten.perturb(model, x, images.y, gen))


def test_the_mode_of_an_attacked_network_is_a_choice() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 16, 2)).train()
    x, y, gen = torch.rand(8, 3, 4, 4), torch.zeros(8, dtype=torch.int64), torch.Generator().manual_seed(0)
    PgdAt(mode="eval").perturb(model, x, y, gen)
    assert model[0].num_batches_tracked == 0
    PgdAt(mode="train", steps=3).perturb(model, x, y, gen)
    assert model[0].num_batches_tracked == 3
    assert model.training


def test_trades_has_finite_gradients_where_probabilities_vanish() -> None:
    """At a gap of 104 and more a float32 probability is 0, and 0 log 0 has no gradient."""
    for gap in (50.0, 104.0, 500.0):
        logits = torch.tensor([[0.0, gap]], requires_grad=True)
        other = torch.tensor([[gap, 0.0]], requires_grad=True)
        apart = divergence(other, log_probabilities(logits))
        apart.backward()
        assert apart.item() == pytest.approx(gap, rel=1e-5)
        assert logits.grad is not None
        assert other.grad is not None
        assert logits.grad.isfinite().all()
        assert torch.allclose(other.grad, torch.tensor([[1.0, -1.0]]))


def test_trades_is_its_closed_form(trained: tuple[nn.Module, Images]) -> None:
    """CE + beta KL(clean || adversarial), in float64, at the point that the attack found."""
    model, images = trained
    x, y = to_float(images.x), torch.nn.functional.one_hot(images.y, 10).float()
    defense = Trades(steps=5, beta=3)
    loss, logits = defense.loss(model, x, y, torch.Generator().manual_seed(5))
    with Frozen(model), torch.no_grad():
        target = log_probabilities(model(x))
        start = 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with Frozen(model):
        x_adv = pgd(
            model,
            x,
            target,
            Budget(),
            steps=5,
            step=4 / 255,
            loss=divergence,
            gen=torch.Generator(),
            start=start,
        )
    with torch.no_grad():
        p, q = (model(z).double().softmax(1) for z in (x, x_adv))
    plain = -(y.double() * p.log()).sum(1).mean() + 3 * (p * (p.log() - q.log())).sum(1).mean()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4)
    assert torch.equal(logits, model(x))
    assert length(x_adv - x, "Linf").max() <= 8 / 255 + 1e-6


def test_the_input_gradient_is_the_true_one_and_weights_get_none(trained: tuple[nn.Module, Images]) -> None:
    model, images = trained
    x = to_float(images.x[:4])
    with Frozen(model):
        grad = input_gradient(model, x, images.y[:4], cross_entropy)
    leaf = x.clone().requires_grad_()
    cross_entropy(model(leaf), images.y[:4]).backward()
    assert leaf.grad is not None
    assert torch.allclose(grad, leaf.grad, atol=1e-7)
    model.zero_grad(set_to_none=True)
    with Frozen(model):
        assert not any(p.requires_grad for p in model.parameters())
        input_gradient(model, x, images.y[:4], cross_entropy)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_frozen_restores_the_mode_even_after_an_error() -> None:
    model = nn.BatchNorm1d(2).train()
    frozen = Frozen(model)
    frozen.__enter__()
    assert not model.training
    frozen.__exit__(KeyError, KeyError(), None)
    assert model.training


def test_a_zero_budget_is_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        Budget.parse({"eps": 0}, "test")
    with pytest.raises(InputError, match="at most 1, the whole pixel range; found 8; write 8/255"):
        Budget.parse({"eps": 8}, "test")
    assert Budget.parse({"norm": "L2", "eps": 2}, "test").eps == 2
    assert step_size(Budget(), PgdAt().steps, None) == pytest.approx(2 / 255)
    assert step_size(Budget(), 10, Fraction(1, 255)) == pytest.approx(1 / 255)
