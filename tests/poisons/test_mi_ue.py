"""MI-UE against plain loops: its two terms, a whole epoch, and crafting that was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poisons import CraftContext
from poisons.methods.em_noise import CPU, EM, Epochs
from poisons.methods.mi_ue import FLIPS, NOISE_EPOCHS, STREAM, MiUe, contrast, spread
from poisons.methods.min_min import WEIGHTS
from tests.poisons.test_ensemble import head
from tests.poisons.test_fixed_network import KilledError, learnable
from trainers import Images, InputError
from trainers.checkpoint import Checkpoint
from trainers.loop import Training, generator
from trainers.recipe import repeatable

__all__ = ["learnable"]
SMALL: dict[str, Any] = {
    "generator": {"kind": "resnet18", "width": 4},
    "epochs": 2,
    "steps": 3,
    "batch_size": 20,
    "noise_batch_size": 16,
    "precision": "float32",
}


def terms(features: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both terms, pair by pair."""
    close, far = [], []
    for i, a in enumerate(features):
        same = total = apart = torch.zeros((), dtype=features.dtype)
        for j, b in enumerate(features):
            near = torch.exp(torch.dot(a, b) / (a.norm() * b.norm()) / temperature)
            total = total + near
            if labels[i] == labels[j]:
                same = same + near
                apart = apart + (0.0 if i == j else (a - b).norm())
        close.append(-torch.log(same / total))
        far.append(torch.log(1 + apart / features.shape[1]))
    return torch.stack(close).mean(), torch.stack(far).mean()


def test_both_terms_are_those_of_a_plain_loop() -> None:
    gen = torch.Generator().manual_seed(0)
    features = torch.randn((9, 5), generator=gen, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 0])
    for found, wanted in zip(
        (contrast(features, labels, 0.3), spread(features, labels)), terms(features, labels, 0.3), strict=True
    ):
        assert found.item() == pytest.approx(wanted.item(), abs=1e-6)
        mine, theirs = (torch.autograd.grad(one, features, retain_graph=True)[0] for one in (found, wanted))
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_equal_features_have_finite_gradients() -> None:
    features = torch.zeros((4, 3)).requires_grad_()
    value = contrast(features, torch.tensor([0, 0, 1, 1]), 0.1) + spread(features, torch.tensor([0, 0, 1, 1]))
    assert torch.autograd.grad(value, features)[0].isfinite().all()


def test_steps_grow_as_published() -> None:
    """By the released formulas, for an epoch counted from 1."""
    poison, total = MiUe(), 100
    for epoch in (1, 50, 100):
        alpha, last = 0.2 / 255, 4 / (255 * 10)
        wanted = (total - epoch + 1) / total * (alpha - last) + last
        assert poison.size(epoch - 1) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("distance", [0.0, 0.5])
def test_the_noise_of_an_epoch_is_that_of_a_plain_loop(distance: float, learnable: Images) -> None:
    poison = MiUe.parse({**SMALL, "epochs": 1, "distance": distance}, "test")
    found = poison.craft(learnable, seed=3).delta.double()
    weights = generator(CPU, 3, EM, WEIGHTS).initial_seed()
    training = Training.begin(poison._recipe(), learnable, seed=weights, device=CPU)
    noise, wanted, eps = poison._begin(learnable, 3, CraftContext()), torch.zeros(learnable.x.shape), 8 / 255
    with repeatable():
        poison._train(training, learnable, noise, 3, CPU)
        model = training.model.eval()
        for batch, rows in enumerate(Epochs(40, 16, True, False, 3, STREAM + NOISE_EPOCHS).epoch(0)):
            x, labels = learnable.x[rows].float() / 255, learnable.y[rows]
            mirrored = torch.rand(len(x), generator=generator(CPU, 3, STREAM, FLIPS, 0, batch)) < 0.5
            x = torch.stack([one.flip(2) if m else one for one, m in zip(x, mirrored, strict=True)])
            delta = torch.zeros_like(x)
            for _ in range(3):
                z = (x + delta).contiguous(memory_format=torch.channels_last).requires_grad_()
                seen: list[Tensor] = []
                with head(model).register_forward_pre_hook(lambda _, i, to=seen: to.append(i[0])):
                    model(z)
                close, far = terms(seen[0], labels, 0.1)
                (grad,) = torch.autograd.grad(close + distance * far, z)
                delta = (delta - 0.2 / 255 * grad.sign()).clamp(-eps, eps)
                delta = (x + delta).clamp(0, 1) - x
            wanted[rows] = delta
    levels = (wanted.double() * 255).round()
    assert (found != levels).double().mean() < 0.01
    assert levels.abs().max() == 1


def test_features_of_a_class_become_alike(learnable: Images) -> None:
    poison = MiUe.parse({**SMALL, "epochs": 1, "steps": 5, "step": "2/255", "flip": False}, "test")
    rows: list[dict[str, Any]] = []
    poisoned = poison.craft(learnable, seed=0, context=CraftContext(report=rows.append)).apply(learnable)
    assert [row["round"] for row in rows] == [1]
    weights = generator(CPU, 0, EM, WEIGHTS).initial_seed()
    training = Training.begin(poison._recipe(), learnable, seed=weights, device=CPU)
    with repeatable():
        poison._train(training, learnable, poison._begin(learnable, 0, CraftContext()), 0, CPU)
    network = training.model.eval()

    def value(images: Images) -> float:
        seen: list[Tensor] = []
        with torch.no_grad(), head(network).register_forward_pre_hook(lambda _, i: seen.append(i[0])):
            network(images.x.float() / 255)
        return contrast(seen[0], images.y, 0.1).item()

    assert value(poisoned) < 0.9 * value(learnable)


def test_the_noise_reaches_its_budget_and_stays_in_it(learnable: Images) -> None:
    settings = {**SMALL, "epochs": 1, "steps": 5, "eps": "2/255", "step": "2/255"}
    assert MiUe.parse(settings, "test").craft(learnable, seed=0).delta.abs().max() == 2


def test_a_killed_crafting_gives_the_same_bits(learnable: Images, tmp_path: Path) -> None:
    poison, file = MiUe.parse({**SMALL, "epochs": 3}, "test"), tmp_path / "checkpoint.pt"
    whole = poison.craft(learnable, seed=0)

    def killed(row: dict[str, Any]) -> None:
        if row["round"] == 2:
            raise KilledError

    context = CraftContext(checkpoint=Checkpoint(file, every=0))
    with pytest.raises(KilledError):
        poison.craft(learnable, seed=0, context=replace(context, report=killed))
    rows: list[dict[str, Any]] = []
    again = poison.craft(learnable, seed=0, context=replace(context, report=rows.append))
    assert torch.equal(again.delta, whole.delta)
    assert rows[0]["round"] == 1


def test_settings_that_make_no_sense(learnable: Images) -> None:
    with pytest.raises(InputError, match="noise_batch_size"):
        MiUe.parse({"noise_batch_size": 1}, "test")
    with pytest.raises(InputError, match="the generator does not end with a linear layer"):
        MiUe.parse({**SMALL, "generator": {"kind": "torchvision", "name": "squeezenet1_1"}}, "test").craft(
            learnable, seed=0
        )
