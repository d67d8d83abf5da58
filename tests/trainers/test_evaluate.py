"""An evaluation counts correctly, attacks within its settings, and warns of doubtful results."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from tests.conftest import CPU
from tests.trainers.test_attacks import trained
from trainers import Budget, EvaluationSpec, Images, InputError
from trainers.attacks.auto_attack import AutoAttack
from trainers.attacks.pgd import Pgd
from trainers.evaluate import evaluate, robust_accuracy, share_without_gradient, suspicious
from trainers.families import Attack
from trainers.images import to_float
from trainers.trial import Trial

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


@pytest.mark.proof
def test_auto_attack_is_at_least_as_strong_as_pgd(trained: tuple[nn.Module, Images]) -> None:
    pytest.importorskip("pyautoattack")
    model, images = trained
    some, budget = images.take(torch.arange(4)), Budget.parse({"norm": "L2", "eps": "1"}, "test")
    left = {
        a: robust_accuracy(model, some, a, gen()) for a in (Pgd(budget=budget), AutoAttack(budget=budget))
    }
    assert list(suspicious(left)) == []
    assert left[AutoAttack(budget=budget)] < 1


def linear(shape: tuple[int, int, int], num_classes: int) -> tuple[nn.Module, Images]:
    """A linear classifier and four images that it puts into their class."""
    gen_ = gen()
    x = torch.randint(256, (4, *shape), dtype=torch.uint8, generator=gen_)
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), num_classes)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=gen_))
        labels = net(to_float(x)).argmax(1)
    return net, Images(x, labels, num_classes)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(1, 4, 8), (3, 5, 3), (1, 8, 4)], ids=str)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_members_of_auto_attack_that_cannot_run_are_left_out(
    shape: tuple[int, int, int], num_classes: int, norm: str
) -> None:
    """Against the library: it raises for those members, and for no other."""
    library = pytest.importorskip("pyautoattack")
    model, images = linear(shape, num_classes)
    attack = AutoAttack.parse({"budget": {"norm": norm, "eps": "1/100000"}}, "test")
    x, raises = to_float(images.x), set()
    for member in ("apgd-ce", "apgd-t", "fab-t", "square"):
        ensemble = library.AutoAttack(model, norm=norm, eps=1e-5, seed=0)
        ensemble.attacks_to_run = [member]
        ensemble.square.n_queries = ensemble.apgd.n_iter = ensemble.apgd_targeted.n_iter = 10
        for targeted in (ensemble.apgd_targeted, ensemble.fab):
            targeted.n_target_classes, targeted.n_iter = min(9, num_classes - 1), 10
        try:
            ensemble.run_standard_evaluation(x, images.y, batch_size=4)
        except (IndexError, ZeroDivisionError):
            raises.add(member)
    assert set(attack.left_out(images.extent)) == raises


@pytest.mark.parametrize("num_classes", [2, 3])
def test_auto_attack_runs_on_few_classes_and_reports_what_it_left_out(num_classes: int) -> None:
    pytest.importorskip("pyautoattack")
    model, images = linear((1, 8, 8), num_classes)
    spec = EvaluationSpec.parse(
        {"attacks": [{"kind": "auto_attack", "budget": {"eps": "64/255"}}], "attack_limit": 3}, "test"
    )
    seen = evaluate(model, images, images, spec, gen=gen())
    needs = f"at least 4 classes, these images have {num_classes}"
    metric = "test/auto_attack_Linf_64_255_acc"
    assert seen.attacks == {metric: {"images": 3, "left_out": {"apgd-t": needs}}}
    assert f"auto_attack_Linf_64_255 without apgd-t: it needs {needs}" in seen.warnings
    (attack,) = spec.attacks
    x_adv = attack.craft(model, to_float(images.x), images.y, gen())
    with torch.no_grad():
        left = (model(x_adv).argmax(1) == images.y).double().mean().item()
    assert left < 1


def test_an_impossible_attack_is_refused_before_the_training(images: Images) -> None:
    one = Images(images.x, torch.zeros_like(images.y), 1)
    far = {"kind": "pgd", "budget": {"norm": "L2", "eps": "56"}}
    near = {"kind": "pgd", "budget": {"norm": "L2", "eps": "55"}}
    EvaluationSpec.parse({"attacks": [near, "auto_attack"]}, "test").check(images.extent)
    for attack, those, why in (
        ("pgd", one, "these images have only 1"),
        (far, images, "further apart than 55.43"),
    ):
        rows: list[dict[str, float]] = []
        with pytest.raises(InputError, match=why):
            Trial.parse(
                {"train": {"architecture": "lenet5"}, "evaluation": {"attacks": [attack]}}, "test"
            ).run(those, those, device=CPU, report=rows.append)
        assert rows == []


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
    assert share_without_gradient(model, images, CPU) < 0.05
    assert share_without_gradient(masked, images, CPU) == 1
    seen = evaluate(masked, images, images, EvaluationSpec.parse({"attacks": ["pgd"]}, "test"), gen=gen())
    assert "100.0% of the test images give no gradient at all" in seen.warnings[0]


def test_a_stronger_attack_that_does_worse_is_noticed() -> None:
    weak, strong = Pgd(steps=1), Pgd(steps=20)
    wide = Pgd(budget=Budget(eps=Fraction(16, 255)))
    (warning,) = suspicious({weak: 0.3, strong: 0.5})
    assert (
        "pgd20_Linf_8_255 is the stronger attack and leaves more accuracy (50.0%) than pgd1_Linf_8_255 (30.0%)"
        in warning
    )
    assert list(suspicious({weak: 0.5, strong: 0.505, wide: 0.2})) == [], "within the noise"
    (warning,) = suspicious({strong: 0.3, wide: 0.5})
    assert warning.startswith("pgd20_Linf_16_255")
    assert list(suspicious({strong: 0.3, Pgd(budget=Budget(norm="L2", eps=Fraction(1))): 0.6})) == [], (
        "not comparable"
    )


def test_a_training_set_that_was_not_learnt_is_noticed(trained: tuple[nn.Module, Images]) -> None:
    model, images = trained
    wrong = Images(images.x, (images.y + 1) % 10, 10)
    (warning,) = evaluate(model, wrong, images, EvaluationSpec(), gen=gen(), memorises=True).warnings
    assert "the training set was not learnt" in warning
    assert evaluate(model, wrong, images, EvaluationSpec(), gen=gen()).warnings == []


def test_an_impossible_evaluation_is_refused_at_once() -> None:
    with pytest.raises(
        InputError, match="two attacks have the same name: pgd20_Linf_8_255, pgd20_Linf_8_255"
    ):
        EvaluationSpec.parse({"attacks": ["pgd", "pgd"]}, "test")
    with pytest.raises(InputError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        EvaluationSpec.parse({"attacks": ["pdg"]}, "test")
