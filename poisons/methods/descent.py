"""How noise descends an objective of networks that do not change: signed steps on every image, batch by
batch, by any number of workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisons.perturbations.delta import whole_levels
from trainers.features import feature
from trainers.images import Images, to_float
from trainers.loop import generator
from trainers.recipe import TrainSpec, repeatable

if TYPE_CHECKING:
    from poisons.methods.fixed_network import FixedNetworkNoise

STREAM = 84  # first part of every random stream here, after the seed
DRAWS = 1  # last part of the stream of what is drawn on the host
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Descent:
    """One restart: what the noise descends. `head` names the layer whose inputs the objective reads; it reads
    logits if there is none. `aims` has what each network's objective needs beside them."""

    poison: FixedNetworkNoise
    models: tuple[nn.Module, ...]  # in eval mode; their weights require no gradient
    head: str | None
    aims: tuple[Tensor | None, ...]
    recipe: TrainSpec
    num_classes: int
    seed: int
    restart: int = 0

    def __call__(self, x: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The noise of batch `number`, float images N,C,H,W, and its objective at the last step."""
        gen = generator(x.device, self.seed, STREAM, self.restart, number)
        z = (x + self.poison.begin(x, gen)).clamp(0, 1)
        host = generator(CPU, self.seed, STREAM, self.restart, number, DRAWS)
        batch, value = Batch(self, x, labels, gen, host), torch.zeros((), device=x.device)
        for _ in range(self.poison.steps):
            grad, value = self.poison.direction(batch, z)
            z = batch.move(z, grad)
        return z - x, value

    def to(self, device: torch.device) -> Descent:
        """The same on a device."""
        aims = tuple(None if aim is None else aim.to(device) for aim in self.aims)
        return replace(self, models=tuple(model.to(device) for model in self.models), aims=aims)


@dataclass(frozen=True)
class Batch:
    """Float images `x` and their labels, which descend together. `gen` draws on the device, `host` on the
    host."""

    descent: Descent
    x: Tensor
    labels: Tensor
    gen: torch.Generator
    host: torch.Generator

    @property
    def networks(self) -> int:
        return len(self.descent.models)

    def gradient(self, number: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the objective of one network at images `z`, and the objective."""
        descent, z = self.descent, z.detach().requires_grad_()
        y = F.one_hot(self.labels, descent.num_classes).float()
        with torch.enable_grad():
            seen: Tensor = z
            for augment in descent.poison.augmentations:
                seen, _ = augment(seen, y, self.gen)
            seen = seen.contiguous(memory_format=torch.channels_last)
            model, head = descent.models[number], descent.head
            out = model(seen) if head is None else feature(model, head, seen)
            value = descent.poison.objective(out.float(), self.labels, descent.aims[number])
            (grad,) = torch.autograd.grad(value, z)
        return grad, value.detach()

    def move(self, z: Tensor, grad: Tensor) -> Tensor:
        """Images after a signed step from `z`, within the budget around `x` and in [0, 1]."""
        poison = self.descent.poison
        eps, step = float(poison.eps), float(poison.step_length)
        return (self.x + (z - self.x - step * grad.sign()).clamp(-eps, eps)).clamp(0, 1)


class Share(NamedTuple):
    """What a worker takes: a batch, and its number."""

    number: int
    images: Images


class Descended(NamedTuple):
    levels: Tensor
    objective: float  # the sum over images


def descend_share(descent: Descent, share: Share, device: torch.device) -> Descended:
    """The noise of a batch in levels, computed on `device`."""
    descent, images = descent.to(device), share.images
    with repeatable(), descent.recipe.autocast(device):
        x = to_float(images.x.to(device)).contiguous(memory_format=torch.channels_last)
        noise, value = descent(x, images.y.to(device), share.number)
    return Descended(whole_levels(noise.contiguous(), "signed", descent.poison.eps), value.item())
