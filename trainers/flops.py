"""What a training costs: floating-point operations, counted on the meta device, where nothing is computed.

A multiplication and an addition are two operations. Convolutions, matrix products and attention are counted;
what goes over pixels one by one (activations, normalisation, augmentation, the optimizer) is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from trainers.attackers.pgd import Pgd
from trainers.evaluate import BATCH
from trainers.families import Architecture, Normalised, Passes
from trainers.trial import Trial

META = torch.device("meta")
TRIED = 2  # images that are counted with: batch normalisation wants more than one
ONCE = Passes(forward=1)
WEAK = Pgd(steps=1).passes  # with which an evaluation doubts its attacks

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Flops:
    """Operations for one image: forward, backward to weights and activations, and to the pixels alone."""

    forward: float
    backward: float
    inputs: float

    def of(self, passes: Passes) -> float:
        """Operations of these passes of one image."""
        return passes.forward * self.forward + passes.backward * self.backward + passes.inputs * self.inputs


@dataclass(frozen=True)
class Work:
    """Something to compute: operations, and how many times a batch passes the network, whichever way."""

    flops: float = 0.0
    batches: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.batches + other.batches)

    def __mul__(self, times: float) -> Work:
        return Work(times * self.flops, times * self.batches)


_known: dict[tuple[str, Shape, int], Flops] = {}


def network_flops(architecture: Architecture, *, shape: Shape, num_classes: int) -> Flops:
    """Operations of a network for one image of `shape` (C, H, W); remembered. Raises what its library raises
    where the network cannot be built."""
    name = architecture.key, shape, num_classes
    if name not in _known:
        _known[name] = _count(_on_meta(architecture, shape, num_classes), shape)
    return _known[name]


def state_bytes(architecture: Architecture, *, shape: Shape, num_classes: int) -> int:
    """Bytes of a network's weights and buffers, as its state is saved. Raises what its library raises where
    the network cannot be built."""
    tensors = _on_meta(architecture, shape, num_classes).state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def trial_work(trial: Trial, network: Flops, *, train: int, test: int) -> Work:
    """What a training on `train` images and its evaluation on `test` others compute."""
    spec, evaluation = trial.train, trial.evaluation
    test = min(test, evaluation.limit or test)
    epoch = over(train, spec.batch_size, spec.defense.passes, network) + over(test, BATCH, ONCE, network)
    looks = over(test, BATCH, ONCE, network) + over(train, BATCH, ONCE, network)
    attacked = min(test, evaluation.attack_limit or test)
    crafts = [attack.passes for attack in evaluation.attacks]
    if crafts:  # an evaluation doubts attacks with a weak one, and looks for images without a gradient
        looks += over(attacked, spec.batch_size, Passes(forward=1, inputs=1), network)
        crafts.append(WEAK)
    for passes in crafts:
        looks += over(attacked, spec.batch_size, passes, network)
        looks += over(attacked, spec.batch_size, ONCE, network)
    return epoch * spec.epochs + looks


def over(images: int, batch: int, passes: Passes, network: Flops) -> Work:
    """`passes` of every one of so many images, `batch` at a time."""
    times = passes.forward + passes.backward + passes.inputs
    return Work(images * network.of(passes), math.ceil(images / batch) * times)


def _on_meta(architecture: Architecture, shape: Shape, num_classes: int) -> nn.Module:
    """The network without numbers, in training mode; some libraries need numbers to build one."""
    with torch.random.fork_rng(devices=[]):
        try:
            with META:
                net = architecture.build(num_classes=num_classes, shape=shape)
        except (RuntimeError, NotImplementedError, ValueError):
            net = architecture.build(num_classes=num_classes, shape=shape)
    return Normalised(net).to(META).train()


def _count(net: nn.Module, shape: Shape) -> Flops:
    x = torch.empty(TRIED, *shape, device=META)
    forward, out = _counted(lambda: net(x))
    backward, _ = _counted(lambda: out.sum().backward())
    out = net.requires_grad_(False)(x.requires_grad_())
    inputs, _ = _counted(lambda: out.sum().backward())
    return Flops(forward / TRIED, backward / TRIED, inputs / TRIED)


def _counted(run: Any) -> tuple[int, Any]:
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        out = run()
    return counter.get_total_flops(), out


def _convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *settings: Any, **_: Any
) -> int:
    """Each of the two gradients takes as much as the convolution itself; torch's own count forgets the groups
    of a grouped one (torch 2.14)."""
    transposed, wanted = settings[4], settings[7]
    return sum(wanted[:2]) * conv_flop_count(list(x), list(weight), list(grad), transposed=transposed)
