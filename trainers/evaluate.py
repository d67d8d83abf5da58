"""The evaluation of a trained network: accuracy on unseen images, under attack and by class.

It also checks itself: signs that its numbers are unreliable are returned as warnings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn

from trainers.attacks.pgd import Pgd
from trainers.families import Attack, Defense, cross_entropy
from trainers.feed import feed
from trainers.images import Extent, Images
from trainers.pgd import Frozen, input_gradient
from trainers.spec import InputError, Spec

BATCH = 500  # images evaluated at a time; an attack, which needs gradients, takes its size from the spec
EXPECTED = 0.99  # training accuracy that a large network reaches (One-Pixel Shortcut paper, Table 1)
NO_GRADIENT = 0.1  # share of images without any gradient above which gradient attacks are unreliable
NOISE = 0.01  # by chance, a stronger attack may leave this much more accuracy


class EvaluationSpec(Spec):
    """How a trained network is evaluated: on clean test images, and under attacks."""

    limit: PositiveInt | None = None
    """Size of a class-balanced subset of the clean test images; null takes all."""
    attacks: tuple[Attack, ...] = ()
    """Attacks under which the accuracy is measured too."""
    attack_limit: PositiveInt | None = None
    """Size of a class-balanced subset of these images that is attacked; null takes all."""

    @field_validator("attacks")
    @classmethod
    def _distinct(cls, attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
        names = [attack.name for attack in attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"two attacks have the same name: {', '.join(names)}")
        return attacks

    def check(self, test: Extent) -> None:
        """InputError if the evaluation cannot be done on test images of this extent. Called before a
        training."""
        if not test.images:
            raise InputError("there are no test images to measure an accuracy on: take some")
        for attack in self.attacks:
            attack.check(test)


class AttackRecord(TypedDict):
    """What an attack's metric covers: how many images were attacked, and which members of an ensemble were
    left out, with the reason."""

    images: int
    left_out: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """Metrics in [0, 1] by name, the clean test accuracy of each class (None for a class without images),
    warnings, and for each attack's metric what it covers."""

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
    defense: Defense | None = None,
) -> Evaluation:
    """Evaluate a trained `model` in eval mode on the device of `gen`; attack `batch_size` images at a time.
    `train` are the images it was trained on. `memorises` says that the training should have fitted every one
    of them; there is a warning if it did not. With a `defense`, test accuracies and attacks are those of the
    model that classifies what the defense purifies."""
    device = gen.device
    with Frozen(model):
        deployed = defense.deployed(model) if defense else model
        hits = correct(deployed, test, device)
        metrics = {
            "test/clean_acc": share(hits),
            "train/unaugmented_acc": share(correct(model, train, device)),
        }
        some = test.subset(spec.attack_limit)
        robust = {a: robust_accuracy(deployed, some, a, gen, batch_size) for a in spec.attacks}
        warnings = list(_attack_warnings(deployed, some, robust, gen, batch_size)) if robust else []
    if memorises and metrics["train/unaugmented_acc"] < EXPECTED:
        warnings.append(
            f"the training set was not learnt: accuracy on it is {metrics['train/unaugmented_acc']:.1%}, and "
            f"{EXPECTED:.0%} is expected of this network; a longer training may end elsewhere"
        )
    metrics |= {metric_of(attack): value for attack, value in robust.items()}
    attacks = {metric_of(attack): attack_record(attack, some.extent) for attack in robust}
    warnings += [text for attack in robust for text in incomplete(attack, some.extent)]
    return Evaluation(metrics, by_class(hits, test), warnings, attacks)


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
    """Whether each image is classified correctly: bool N on `device`. The model stays in its current mode."""
    right = [
        model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == labels
        for x, labels in feed(images, BATCH, device)
    ]
    return torch.cat(right)


def accuracy(model: nn.Module, images: Images, device: torch.device) -> float:
    """The accuracy of the model, in eval mode, on `images`; in [0, 1]."""
    with Frozen(model):
        return share(correct(model, images, device))


def share(hits: Tensor) -> float:
    """The share of true values in bool N, in [0, 1]."""
    return hits.sum().item() / len(hits)


def robust_accuracy(
    model: nn.Module, images: Images, attack: Attack, gen: torch.Generator, batch_size: int = 128
) -> float:
    """The accuracy on `images` under `attack`, in [0, 1]."""
    right = torch.zeros((), dtype=torch.int64, device=gen.device)
    for x, labels in feed(images, batch_size, gen.device):
        x_adv = attack.craft(model, x.contiguous(memory_format=torch.channels_last), labels, gen)
        with torch.no_grad():
            right += (model(x_adv).argmax(1) == labels).sum()
    return right.item() / len(images)


def by_class(hits: Tensor, images: Images) -> list[float | None]:
    """The share of true `hits` (bool N) in each class."""
    labels = images.y.to(hits.device)
    count = torch.bincount(labels, minlength=images.num_classes).tolist()
    right = torch.bincount(labels[hits], minlength=images.num_classes).tolist()
    return [r / n if n else None for r, n in zip(right, count, strict=True)]


def _attack_warnings(
    model: nn.Module,
    images: Images,
    robust: dict[Attack, float],
    gen: torch.Generator,
    batch_size: int,
) -> Iterator[str]:
    """Signs that gradient attacks are unreliable (as AutoAttack's checks: Croce, Hein; ICML 2020)."""
    silent = share_without_gradient(model, images, gen.device, batch_size)
    if silent >= NO_GRADIENT:
        yield (
            f"{silent:.1%} of the test images give no gradient at all: gradient attacks, and robust "
            "accuracies from them, are unreliable"
        )
    budget = next(iter(robust)).budget
    weak = Pgd(budget=budget, steps=1, step=budget.eps)
    yield from suspicious(robust | {weak: robust_accuracy(model, images, weak, gen, batch_size)})


def suspicious(robust: dict[Attack, float]) -> Iterator[str]:
    """A warning for each pair of attacks of which the stronger (more steps, or as many and a larger eps)
    leaves more accuracy."""
    for a, left_a in robust.items():
        for b, left_b in robust.items():
            comparable = a.budget.norm == b.budget.norm and a.budget.eps <= b.budget.eps
            harder = (a.strength, a.budget.eps) != (b.strength, b.budget.eps) and a.strength <= b.strength
            if comparable and harder and left_b > left_a + NOISE:
                yield (
                    f"{b.name} is the stronger attack and leaves more accuracy ({left_b:.1%}) than "
                    f"{a.name} ({left_a:.1%}): gradients may be masked"
                )


def share_without_gradient(
    model: nn.Module, images: Images, device: torch.device, batch_size: int = 128
) -> float:
    """The share of images for which the loss has no gradient with respect to any pixel."""
    silent = torch.zeros((), dtype=torch.int64, device=device)
    for x, labels in feed(images, batch_size, device):
        grad = input_gradient(model, x.contiguous(memory_format=torch.channels_last), labels, cross_entropy)
        silent += (grad.abs().amax((1, 2, 3)) == 0).sum()
    return silent.item() / len(images)
