"""What a trained network is worth: accuracy on images it has not seen, under attack, by class; and doubts.

An evaluation suspects itself: what makes its numbers doubtful is said beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn

from trainers.attacks.pgd import Pgd
from trainers.families import Attack, cross_entropy
from trainers.feed import feed
from trainers.images import Extent, Images
from trainers.pgd import Frozen, input_gradient
from trainers.spec import InputError, Spec

BATCH = 500  # images answered at a time; an attack, which needs gradients, takes its size from the spec
PROMISED = 0.99  # the share of a training set that a large network learns (One-Pixel Shortcut paper, Table 1)
SILENT = 0.1  # the share of images without any gradient from which an attack by gradients is in doubt
NOISE = 0.01  # a stronger attack may leave this much more accuracy by chance


class EvaluationSpec(Spec):
    """What a trained network is looked at with: a class-balanced `limit` of the clean test images (default:
    all), and `attacks` on them, or on a class-balanced `attack_limit` of them."""

    limit: PositiveInt | None = None
    attacks: tuple[Attack, ...] = ()
    attack_limit: PositiveInt | None = None

    @field_validator("attacks")
    @classmethod
    def _distinct(cls, attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
        names = [attack.name for attack in attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"two attacks are named alike: {', '.join(names)}")
        return attacks

    def check(self, test: Extent) -> None:
        """InputError if it cannot be made on test images of this extent: before a training, not after it."""
        if not test.images:
            raise InputError("there are no test images, so no accuracy on them: take some")
        for attack in self.attacks:
            attack.check(test)


class AttackRecord(TypedDict):
    """What an attack's metric is about: how many images were attacked, and which members of an ensemble were
    left out, each with what it needs."""

    images: int
    left_out: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """Shares by name, the clean test accuracy of each class (None for a class without images), doubts, and of
    each attack's metric what it is about."""

    metrics: dict[str, float]
    per_class: list[float | None]
    warnings: list[str]
    attacks: dict[str, AttackRecord] = field(default_factory=dict)


def evaluate(
    model: nn.Module,
    train: Images,
    test: Images,
    spec: EvaluationSpec,
    *,
    gen: torch.Generator,
    batch_size: int = 128,
    memorises: bool = False,
) -> Evaluation:
    """Look at a trained `model` once, in eval mode, on the device of `gen`; attack `batch_size` images at a
    time. `memorises` says that the training should have learnt every training image, so that it is a doubt
    if it did not."""
    device = gen.device
    with Frozen(model):
        answers = correct(model, test, device)
        metrics = {
            "test/clean_acc": share(answers),
            "train/unaugmented_acc": share(correct(model, train, device)),
        }
        some = test.subset(spec.attack_limit)
        robust = {a: robust_accuracy(model, some, a, gen, batch_size) for a in spec.attacks}
        doubts = list(_doubts_about_attacks(model, some, robust, gen, batch_size)) if robust else []
    if memorises and metrics["train/unaugmented_acc"] < PROMISED:
        doubts.append(
            f"the training set was not learnt: {metrics['train/unaugmented_acc']:.1%} of its images, where "
            f"this network promises {PROMISED:.0%}; a longer training may end elsewhere"
        )
    metrics |= {metric_of(attack): value for attack, value in robust.items()}
    attacks = {metric_of(attack): attack_record(attack, some.extent) for attack in robust}
    doubts += [text for attack in robust for text in incomplete(attack, some.extent)]
    return Evaluation(metrics, by_class(answers, test), doubts, attacks)


def metric_of(attack: Attack) -> str:
    """The name of the accuracy under an attack: `test/pgd20_Linf_8_255_acc`."""
    return f"test/{attack.name}_acc"


def attack_record(attack: Attack, images: Extent) -> AttackRecord:
    return {"images": images.images, "left_out": dict(attack.left_out(images))}


def incomplete(attack: Attack, images: Extent) -> list[str]:
    """`auto_attack_Linf_8_255 without apgd-t: it needs at least 4 classes, these images have 2`, for each
    member of an ensemble that is left out."""
    return [f"{attack.name} without {name}: it needs {why}" for name, why in attack.left_out(images).items()]


@torch.no_grad()
def correct(model: nn.Module, images: Images, device: torch.device) -> Tensor:
    """Whether each image's largest logit is its label's: bool N on `device`. Uses the model in its mode."""
    right = [
        model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == labels
        for x, labels in feed(images, BATCH, device)
    ]
    return torch.cat(right)


def accuracy(model: nn.Module, images: Images, device: torch.device) -> float:
    """The share of `images` that the model, in eval mode, puts into their class; in [0, 1]."""
    with Frozen(model):
        return share(correct(model, images, device))


def share(answers: Tensor) -> float:
    """The share of true values in bool N, in [0, 1]."""
    return answers.sum().item() / len(answers)


def robust_accuracy(
    model: nn.Module, images: Images, attack: Attack, gen: torch.Generator, batch_size: int = 128
) -> float:
    """The share of `images` that the model still puts into their class after `attack`."""
    right = torch.zeros((), dtype=torch.int64, device=gen.device)
    for x, labels in feed(images, batch_size, gen.device):
        x_adv = attack.craft(model, x.contiguous(memory_format=torch.channels_last), labels, gen)
        with torch.no_grad():
            right += (model(x_adv).argmax(1) == labels).sum()
    return right.item() / len(images)


def by_class(answers: Tensor, images: Images) -> list[float | None]:
    """The share of right `answers` (bool N) in each class."""
    labels = images.y.to(answers.device)
    count = torch.bincount(labels, minlength=images.num_classes).tolist()
    right = torch.bincount(labels[answers], minlength=images.num_classes).tolist()
    return [r / n if n else None for r, n in zip(right, count, strict=True)]


def _doubts_about_attacks(
    model: nn.Module,
    images: Images,
    robust: dict[Attack, float],
    gen: torch.Generator,
    batch_size: int,
) -> Iterator[str]:
    """Signs that attacks by gradients say little (as AutoAttack's checks: Croce, Hein; ICML 2020)."""
    silent = silent_share(model, images, gen.device, batch_size)
    if silent >= SILENT:
        yield (
            f"{silent:.1%} of the test images give no gradient at all: attacks by gradients, and robust "
            "accuracies from them, are in doubt"
        )
    budget = next(iter(robust)).budget
    weak = Pgd(budget=budget, steps=1, step=budget.eps)
    yield from suspicious(robust | {weak: robust_accuracy(model, images, weak, gen, batch_size)})


def suspicious(robust: dict[Attack, float]) -> Iterator[str]:
    """Pairs of attacks of which the stronger (more steps, or more eps with as many) leaves more accuracy."""
    for a, left_a in robust.items():
        for b, left_b in robust.items():
            comparable = a.budget.norm == b.budget.norm and a.budget.eps <= b.budget.eps
            harder = (a.strength, a.budget.eps) != (b.strength, b.budget.eps) and a.strength <= b.strength
            if comparable and harder and left_b > left_a + NOISE:
                yield (
                    f"{b.name} is the stronger attack and leaves more accuracy ({left_b:.1%}) than "
                    f"{a.name} ({left_a:.1%}): gradients may be masked"
                )


def silent_share(model: nn.Module, images: Images, device: torch.device, batch_size: int = 128) -> float:
    """The share of images for which the loss has no gradient with respect to any pixel."""
    silent = torch.zeros((), dtype=torch.int64, device=device)
    for x, labels in feed(images, batch_size, device):
        grad = input_gradient(model, x.contiguous(memory_format=torch.channels_last), labels, cross_entropy)
        silent += (grad.abs().amax((1, 2, 3)) == 0).sum()
    return silent.item() / len(images)
