"""An evaluation counts right, attacks as it is told, and says when it should not be believed."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from tests.conftest import CPU
from tests.trainers.test_attacks import trained
from trainers import Budget, EvaluationSpec, Images, InputError, evaluate
from trainers.attackers.auto_attack import AutoAttack
from trainers.attackers.pgd import Pgd
from trainers.evaluate import robust_accuracy, silent_share, suspicious
from trainers.families import Attack
from trainers.images import to_float

__all__ = ["trained"]


def gen() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_metrics_are_named_and_counted(trained: tuple[nn.Module, Images]) -> None:
    model, images = trained
    attacks = [
        "pgd",
        {"kind": "pgd", "budget": {"norm": "L2", "eps": "1/2"}},
        {"kind": "pgd", "steps": 5, "step": "1/255"},
    ]
    spec = EvaluationSpec.parse({"attacks": attacks, "attack_limit": 50}, "test")
    seen = evaluate(model, images, images, spec, gen=gen())
    with torch.no_grad():
        right = model(to_float(images.x)).argmax(1) == images.y
    assert seen.metrics["test/clean_acc"] == seen.metrics["train/unaugmented_acc"] == right.sum().item() / 200
    by_hand = [right[images.y == k].double().mean().item() for k in range(10)]
    assert seen.per_class == pytest.approx(by_hand)
    assert list(seen.metrics)[2:] == [
        "test/pgd20_Linf_8_255_acc",
        "test/pgd20_L2_1_2_acc",
        "test/pgd5_Linf_8_255_step_1_255_acc",
    ]
    assert seen.metrics["test/pgd20_Linf_8_255_acc"] < seen.metrics["test/clean_acc"]
    assert seen.warnings == []
    some = images.take(images.balanced(50))
    x_adv = Pgd().craft(model, to_float(some.x), some.y, gen())
    with torch.no_grad():
        plain = (model(x_adv).argmax(1) == some.y).sum().item() / 50
    assert robust_accuracy(model, some, Pgd(), gen()) == plain
    assert model.training is False


def test_a_class_without_images_has_no_accuracy(trained: tuple[nn.Module, Images]) -> None:
    model, images = trained
    some = images.take((images.y != 3).nonzero().flatten())
    seen = evaluate(model, some, some, EvaluationSpec(), gen=gen())
    assert [k for k, value in enumerate(seen.per_class) if value is None] == [3]


@pytest.mark.parametrize("member", Attack.registry.values(), ids=lambda m: m.kind)
@pytest.mark.parametrize(("norm", "eps"), [("Linf", "8/255"), ("L2", "1/2")])
def test_every_attack_keeps_its_budget_and_repeats(
    trained: tuple[nn.Module, Images], member: type[Attack], norm: str, eps: str
) -> None:
    if member is AutoAttack:
        pytest.importorskip("pyautoattack")
    model, images = trained
    attack = member.parse({**member.smoke, "budget": {"norm": norm, "eps": eps}}, "test")
    some = images.take(torch.arange(32))  # auto_attack moves those alone that it fools: of eight maybe none
    x, state = to_float(some.x), torch.get_rng_state()
    one, again = (attack.craft(model, x, some.y, gen()) for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(torch.get_rng_state(), state)
    moved = (one - x).double().flatten(1)
    size = moved.abs().amax(1) if norm == "Linf" else moved.norm(dim=1)
    assert (size <= float(Fraction(eps)) * (1 + 1e-5)).all()
    assert size.max() > 0
    assert 0 <= one.min() <= one.max() <= 1


@pytest.mark.slow
def test_auto_attack_leaves_no_more_than_pgd(trained: tuple[nn.Module, Images]) -> None:
    pytest.importorskip("pyautoattack")
    model, images = trained
    some, budget = images.take(torch.arange(4)), Budget.parse({"norm": "L2", "eps": "1"}, "test")
    left = {
        a: robust_accuracy(model, some, a, gen()) for a in (Pgd(budget=budget), AutoAttack(budget=budget))
    }
    assert list(suspicious(left)) == []
    assert left[AutoAttack(budget=budget)] < 1


class Quantised(nn.Module):
    """Masks gradients: pixels in motion are rounded, which has no slope."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net((x * 255).round() / 255)


def test_masked_gradients_are_noticed(trained: tuple[nn.Module, Images]) -> None:
    model, images = trained
    masked = Quantised(model).eval()
    assert silent_share(model, images, CPU) < 0.05
    assert silent_share(masked, images, CPU) == 1
    seen = evaluate(masked, images, images, EvaluationSpec.parse({"attacks": ["pgd"]}, "test"), gen=gen())
    assert "100.0% of the test images give no gradient at all" in seen.warnings[0]


def test_a_stronger_attack_that_does_worse_is_noticed() -> None:
    weak, strong = Pgd(steps=1), Pgd(steps=20)
    wide = Pgd(budget=Budget(eps=Fraction(16, 255)))
    (told,) = suspicious({weak: 0.3, strong: 0.5})
    assert (
        "pgd20_Linf_8_255 is the stronger attack and leaves more accuracy (50.0%) than pgd1_Linf_8_255 (30.0%)"
        in told
    )
    assert list(suspicious({weak: 0.5, strong: 0.505, wide: 0.2})) == [], "within the noise"
    (told,) = suspicious({strong: 0.3, wide: 0.5})
    assert told.startswith("pgd20_Linf_16_255")
    assert list(suspicious({strong: 0.3, Pgd(budget=Budget(norm="L2", eps=Fraction(1))): 0.6})) == [], (
        "not comparable"
    )


def test_a_training_set_that_was_not_learnt_is_noticed(trained: tuple[nn.Module, Images]) -> None:
    model, images = trained
    wrong = Images(images.x, (images.y + 1) % 10, 10)
    (told,) = evaluate(model, wrong, images, EvaluationSpec(), gen=gen(), memorises=True).warnings
    assert "the training set was not learnt" in told
    assert evaluate(model, wrong, images, EvaluationSpec(), gen=gen()).warnings == []


def test_an_evaluation_that_cannot_be_is_told_at_once() -> None:
    with pytest.raises(InputError, match="two attacks are named alike: pgd20_Linf_8_255, pgd20_Linf_8_255"):
        EvaluationSpec.parse({"attacks": ["pgd", "pgd"]}, "test")
    with pytest.raises(InputError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        EvaluationSpec.parse({"attacks": ["pdg"]}, "test")
