"""Operations are those that papers publish and a hand reckons; a training is the sum of its passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.conftest import CPU
from trainers import Images, TrainSpec
from trainers.architectures.lenet import LeNet5
from trainers.attacks.auto_attack import AutoAttack
from trainers.attacks.pgd import Pgd
from trainers.evaluate import BATCH
from trainers.families import Architecture, Attack, Defense, Passes
from trainers.flops import Flops, Work, network_flops, over, trial_work
from trainers.images import to_float
from trainers.loop import Training, generator, train_step
from trainers.pgd import Frozen
from trainers.trial import Trial

CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)
FORWARD = 2 * (28 * 28 * 6 * 3 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10)  # LeNet-5
FIRST = 2 * 28 * 28 * 6 * 3 * 25  # its first convolution
LENET = Flops(FORWARD, 2 * FORWARD - FIRST, FORWARD)  # images ask for no gradient in a training


def test_a_small_network_by_hand() -> None:
    found = network_flops(LeNet5(), shape=CIFAR, num_classes=10)
    assert (found.forward, found.backward, found.inputs) == (LENET.forward, LENET.backward, LENET.inputs)


def test_the_values_and_kernels_of_lenet_are_those_of_its_layers() -> None:
    """Normalisation takes two kernels, and a pool also writes the indices of its values."""
    found = network_flops(LeNet5(), shape=CIFAR, num_classes=10)
    convolutions = 2 * 6 * 28**2 + 2 * 16 * 10**2  # each with its ReLU
    pools = 2 * 6 * 14**2 + 2 * 16 * 5**2
    assert found.values.forward == 2 * 3 * 32**2 + convolutions + pools + 2 * (120 + 84) + 10
    assert found.kernels.forward == 2 + 2 * (2 + 1) + 2 * 2 + 1
    assert found.kernels.backward > found.kernels.forward + 10, "and ten weights are updated"
    work = over(100, 32, Passes(forward=3), found)
    assert (work.values, work.kernels) == (300 * found.values.forward, 12 * found.kernels.forward)


@pytest.mark.parametrize(
    ("settings", "shape", "classes", "gmacs"),
    [
        ({"kind": "resnet18"}, CIFAR, 10, 0.56),
        ({"kind": "resnet50"}, CIFAR, 10, 1.30),
        ({"kind": "wide_resnet", "form": "original"}, CIFAR, 10, 5.25),
        ({"kind": "vgg16_bn"}, CIFAR, 10, 0.31),
        ({"kind": "timm", "name": "vit_tiny_patch16_224"}, IMAGENET, 1000, 1.26),
        ({"kind": "timm", "name": "efficientnet_b0"}, IMAGENET, 1000, 0.39),
    ],
)
def test_published_numbers(settings: dict[str, Any], shape: Any, classes: int, gmacs: float) -> None:
    if settings["kind"] == "timm":
        pytest.importorskip("timm")
    network = Architecture.parse(settings, "test")
    found = network_flops(network, shape=shape, num_classes=classes)
    assert found.forward / 2e9 == pytest.approx(gmacs, abs=0.007)


@pytest.mark.parametrize("kind", sorted(Architecture.registry))
def test_every_architecture_is_counted_on_the_meta_device(kind: str) -> None:
    if kind == "timm":
        pytest.importorskip("timm")
    network = Architecture.parse({"kind": kind, **Architecture.registry[kind].smoke}, "test")
    before = torch.random.get_rng_state()
    found = network_flops(network, shape=CIFAR, num_classes=7)
    assert torch.equal(torch.random.get_rng_state(), before), "counting draws nothing"
    assert 1.4 < found.backward / found.forward <= 2, "a gradient for weights, one for what came before"
    assert 1 <= found.inputs / found.forward < 1.3, "attention multiplies activations: two gradients"


class Counter(TorchDispatchMode):
    """Counts what is really computed, step by step."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def counted(run: Any) -> int:
    with Counter() as counter:
        run()
    return counter.total


def own_work(defense: Defense, x: torch.Tensor, y: torch.Tensor, gen: torch.Generator) -> int:
    """The operations of its `perturb` outside the network: those with a linear one, less those of its passes."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), y.shape[1]))
    once = 2 * x.numel() * y.shape[1]
    passes = defense.passes
    return counted(lambda: defense.perturb(linear, x, y, gen)) - int(
        once * (passes.forward - 1 + passes.inputs)
    )


@pytest.mark.parametrize("kind", sorted(Defense.registry))
def test_the_passes_of_a_defense_match_a_training_step(kind: str, images: Images) -> None:
    member = Defense.registry[kind]
    required = {
        name: member.smoke[name] for name, field in member.model_fields.items() if field.is_required()
    }
    for settings in (required, member.smoke):
        spec = TrainSpec.parse(
            {"architecture": "lenet5", "augmentations": [], "defense": {"kind": kind, **settings}}, "test"
        )
        training = Training.begin(spec, images, seed=0, device=CPU)
        x, y = to_float(images.x[:8]), spec.targets(images.y[:8], 4)
        gen = generator(CPU, 0)
        found = counted(lambda: train_step(training, training.model, x, y, gen, lr=0.1))  # noqa: B023
        network = network_flops(spec.architecture, shape=CIFAR, num_classes=4)
        own = own_work(spec.defense, x, y, gen) if type(spec.defense).perturb is not Defense.perturb else 0
        assert found == 8 * network.of(spec.defense.passes) + own


def test_the_passes_of_pgd_match_an_attack(images: Images) -> None:
    attack, model = Pgd(steps=3), LeNet5().network(num_classes=4, shape=CIFAR, seed=0)
    with Frozen(model):
        found = counted(lambda: attack.craft(model, to_float(images.x[:8]), images.y[:8], generator(CPU, 0)))
    assert found == 8 * network_flops(LeNet5(), shape=CIFAR, num_classes=4).of(attack.passes)


@pytest.mark.parametrize("kind", sorted(Attack.registry))
def test_every_attack_costs_something(kind: str) -> None:
    attack = Attack.parse({"kind": kind}, "test")
    assert LENET.of(attack.passes) >= attack.passes.forward * LENET.forward > 0


def test_all_of_auto_attack_is_far_more_than_its_first_member() -> None:
    quick = LENET.of(AutoAttack(members="quick").passes)
    assert quick == 100 * (LENET.forward + LENET.inputs)
    assert 10 * quick < LENET.of(AutoAttack().passes) < 50 * quick


def test_a_training_is_the_sum_of_its_passes() -> None:
    trial = Trial.parse(
        {
            "train": {"architecture": "lenet5", "epochs": 3, "batch_size": 32, "defense": "fast_at"},
            "evaluation": {"limit": 600, "attacks": [{"kind": "pgd", "steps": 2}], "attack_limit": 20},
        },
        "test",
    )
    f, b, i = LENET.forward, LENET.backward, LENET.inputs
    epoch = 100 * (2 * f + b + i) + 600 * f
    checks = 600 * f + 100 * f  # both sets, at the end
    attacks = 20 * (2 * f + 2 * i + f) + 20 * (f + i + f)  # the attack, the weak one; and their answers
    silent = 20 * (f + i)
    found = trial_work(trial, LENET, train=100, test=10_000)
    assert found.flops == 3 * epoch + checks + attacks + silent
    tests = -(-600 // BATCH)
    assert found.batches == 3 * (4 * 4 + tests) + tests + 1 + (4 + 1 + 2 + 1 + 2)


def test_a_longer_training_a_stronger_attack_and_more_images_cost_more() -> None:
    def flops(train: int = 100, test: int = 50, **changes: Any) -> float:
        trial = Trial.parse({"train": {"architecture": "lenet5", **changes}}, "test")
        return trial_work(trial, LENET, train=train, test=test).flops

    plain = flops(epochs=2)
    assert flops(epochs=4) > 1.7 * plain
    assert flops(epochs=2, defense={"kind": "pgd_at", "steps": 5}) > 3 * plain
    assert flops(epochs=2, train=200) > 1.5 * plain
    assert flops(epochs=2, batch_size=8) == plain


def test_an_incomplete_last_batch_counts_as_a_batch() -> None:
    assert over(33, 32, Passes(forward=1, backward=1), LENET) == Work(
        33 * (LENET.forward + LENET.backward), 4
    )
