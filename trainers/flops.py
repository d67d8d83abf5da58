"""The cost of a training in floating-point operations, counted on the meta device, where nothing is computed.

A multiplication and an addition are two operations. Those of convolutions, matrix products and attention are
counted. Elementwise work (activations, normalisation, conversions) has few operations but still takes time,
so the values that kernels write and the number of kernels are counted too. Augmentations are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from trainers.attacks.pgd import Pgd
from trainers.evaluate import BATCH
from trainers.families import Architecture, Passes
from trainers.meta import META, on_meta
from trainers.meta import Shape as Shape

if TYPE_CHECKING:
    from trainers.recipe import TrainSpec
    from trainers.trial import Trial

TRIED = 64  # batch size used for counting: large, so that gradients of weights are a small part of the values
ONCE = Passes(forward=1)
WEAK = Pgd(steps=1).passes  # the weak attack with which an evaluation checks its attacks


@dataclass(frozen=True)
class PerPass:
    """A number for each kind of pass: forward, backward to weights and activations, and backward to the
    pixels alone."""

    forward: float = 0.0
    backward: float = 0.0
    inputs: float = 0.0

    def of(self, passes: Passes) -> float:
        """The total over these passes."""
        return passes.forward * self.forward + passes.backward * self.backward + passes.inputs * self.inputs


@dataclass(frozen=True)
class Flops(PerPass):
    """Operations for one image, the `values` that kernels write for one image, and the number of `kernels`
    that run for a batch."""

    values: PerPass = PerPass()
    kernels: PerPass = PerPass()


@dataclass(frozen=True)
class Work:
    """An amount of computation: operations, passes of a batch through the network in either direction, values
    that kernels write, and kernels that run."""

    flops: float = 0.0
    batches: float = 0.0
    values: float = 0.0
    kernels: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Work:
        return Work(*(times * mine for mine in astuple(self)))


_known: dict[tuple[str, Shape, int], Flops] = {}


def network_flops(architecture: Architecture, *, shape: Shape, num_classes: int) -> Flops:
    """Operations of a network for one image of `shape` (C, H, W); cached. Raises what its library raises if
    the network cannot be built."""
    name = architecture.key, shape, num_classes
    if name not in _known:
        _known[name] = flops_of(on_meta(architecture, shape, num_classes), shape)
    return _known[name]


def state_bytes(architecture: Architecture, *, shape: Shape, num_classes: int) -> int:
    """Bytes of a network's weights and buffers, as its state is saved. Raises what its library raises if the
    network cannot be built."""
    tensors = on_meta(architecture, shape, num_classes).state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def trial_work(trial: Trial, network: Flops, *, train: int, test: int) -> Work:
    """The work of a training on `train` images and of its evaluation on `test` images."""
    spec, evaluation = trial.train, trial.evaluation
    test = min(test, evaluation.limit or test)
    checks = tested(test, network) + tested(train, network)
    attacked = min(test, evaluation.attack_limit or test)
    crafts = [attack.passes for attack in evaluation.attacks]
    if crafts:  # an evaluation also runs a weak attack, and searches for images without a gradient
        checks += over(attacked, spec.batch_size, Passes(forward=1, inputs=1), network)
        crafts.append(WEAK)
    for passes in crafts:
        checks += over(attacked, spec.batch_size, passes, network)
        checks += over(attacked, spec.batch_size, ONCE, network)
    return training_work(spec, network, train=train, test=test) + checks


def training_work(spec: TrainSpec, network: Flops, *, train: int, test: int) -> Work:
    """The work of a training on `train` images, with a test on `test` images after each epoch."""
    passes = spec.defense.passes if spec.trains_all else replace(spec.defense.passes, backward=0)
    epoch = over(train, spec.batch_size, passes, network) + tested(test, network)
    return epoch * spec.epochs


def tested(images: int, network: Flops) -> Work:
    """The work of a forward pass of so many images, as an evaluation makes it."""
    return over(images, BATCH, ONCE, network)


def over(images: int, batch: int, passes: Passes, network: Flops) -> Work:
    """The work of `passes` of each image, `batch` at a time."""
    times = passes.forward + passes.backward + passes.inputs
    batches = math.ceil(images / batch)
    return Work(
        images * network.of(passes),
        batches * times,
        images * network.values.of(passes),
        batches * network.kernels.of(passes),
    )


def flops_of(
    net: nn.Module, shape: Sequence[int], output: Callable[[Any], Tensor] = lambda out: out
) -> Flops:
    """Operations of a network on the meta device for one input of `shape`, C,H,W of an image. It is called
    with a batch alone; `output` takes what is to be minimised from what it returns."""
    x = torch.empty(TRIED, *shape, device=META)
    forward, out = counted(lambda: output(net(x)))
    backward, _ = counted(lambda: out.sum().backward())
    updated = sum(weights.requires_grad for weights in net.parameters())
    net.requires_grad_(False)
    out = output(net(x.requires_grad_()))
    inputs, _ = counted(lambda: out.sum().backward())
    ways = (forward, backward, inputs)
    kernels = PerPass(forward.kernels, backward.kernels + updated, inputs.kernels)  # and the optimizer's
    values = PerPass(*(way.values / TRIED for way in ways))
    flops = [way.flops / TRIED for way in ways]
    return Flops(flops[0], flops[1], flops[2], values=values, kernels=kernels)


@dataclass(frozen=True)
class Count:
    """Operations, values that kernels write, and kernels."""

    flops: int
    values: int
    kernels: int


class _Kernels(TorchDispatchMode):
    """Counts the kernels that run and the values that they write; views do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.kernels += 1
            self.values += sum(one.numel() for one in tree_leaves(out) if isinstance(one, torch.Tensor))
        return out


def counted(run: Callable[[], Any]) -> tuple[Count, Any]:
    """What `run` computes, and what it returns; its operations are those of convolutions and products."""
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as flops, _Kernels() as kernels:
        out = run()
    return Count(flops.get_total_flops(), kernels.values, kernels.kernels), out


def _convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *settings: Any, **_: Any
) -> int:
    """Each of the two gradients costs as much as the convolution itself. torch's own count ignores groups
    (torch 2.14)."""
    transposed, wanted = settings[4], settings[7]
    return sum(wanted[:2]) * conv_flop_count(list(x), list(weight), list(grad), transposed=transposed)
