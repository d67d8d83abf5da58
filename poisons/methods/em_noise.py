"""The noise step of error-minimising noise: the noise of each image or class descends the gradient of a
generator's loss."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from poisons.base import CraftContext
from trainers.families import Augmentation, cross_entropy
from trainers.feed import SHARE, feed
from trainers.images import Images, to_float
from trainers.loop import generator
from trainers.pgd import input_gradient
from trainers.recipe import TrainSpec, repeatable

CPU = torch.device("cpu")
EM = 25965  # first part of every random stream here, after the seed
BEGIN, ORDER, TRAIN, DESCEND = range(4)  # second part: the purpose


@dataclass(frozen=True)
class Epochs:
    """`n` rows in batches of `size`, epoch after epoch: in order, or reshuffled for each epoch. With
    `drop_last` an incomplete last batch is dropped, unless it is the only one."""

    n: int
    size: int
    shuffle: bool
    drop_last: bool
    seed: int
    stream: int

    @property
    def batches(self) -> int:
        """The number of batches in an epoch."""
        return (self.drop_last and self.n // self.size) or math.ceil(self.n / self.size)

    @property
    def last_batch_size(self) -> int:
        """The number of rows in the last batch of an epoch."""
        return min(self.n - (self.batches - 1) * self.size, self.size)

    def epoch(self, number: int) -> Sequence[Tensor]:
        """The batches of one epoch, as int64 rows on the host."""
        gen = generator(CPU, self.seed, EM, ORDER, self.stream, number)
        order = torch.randperm(self.n, generator=gen) if self.shuffle else torch.arange(self.n)
        return order.split(self.size)[: self.batches]


@dataclass(frozen=True, kw_only=True)
class Descent:
    """The noise step of one round: `steps` signed gradient descents of the loss of `model`, each of size
    `step`, within ±`eps`. `recipe` gives the batch size, the arithmetic and the augmentations."""

    model: nn.Module  # in eval mode; its weights require no gradient
    recipe: TrainSpec
    num_classes: int
    eps: float
    step: float
    steps: int
    seed: int
    round: int

    def __call__(self, x: Tensor, labels: Tensor, noise: Tensor, batch: int) -> Tensor:
        """The updated noise, float N,C,H,W, of batch number `batch`. As published, it is the noise before the
        last clipping of images to [0, 1]."""
        forward, z = self._forward(labels, batch), (x + noise).clamp_(0, 1)
        for _ in range(self.steps):
            grad = input_gradient(forward, z, labels, cross_entropy)
            noise = torch.add(z, grad.sign(), alpha=-self.step).sub_(x).clamp_(-self.eps, self.eps)
            z = (x + noise).clamp_(0, 1)
        return noise

    def _forward(self, labels: Tensor, batch: int) -> nn.Module:
        if not self.recipe.augmentations:
            return self.model
        gen = generator(labels.device, self.seed, EM, DESCEND, self.round, batch)
        return Augmented(
            self.model, self.recipe.augmentations, self.recipe.targets(labels, self.num_classes), gen
        )


class Augmented(nn.Module):
    """`model` on images that are augmented with new draws at every call."""

    def __init__(
        self, model: nn.Module, augmentations: tuple[Augmentation, ...], y: Tensor, gen: torch.Generator
    ) -> None:
        super().__init__()
        self.model, self.augmentations, self.y, self.gen = model, augmentations, y, gen

    def forward(self, x: Tensor) -> Tensor:
        for augment in self.augmentations:
            x, _ = augment(x, self.y, self.gen)
        return self.model(x.contiguous(memory_format=torch.channels_last))


@torch.no_grad()
def judge(model: nn.Module, noisy: Tensor, labels: Tensor) -> Tensor:
    """The number of misclassified noisy images, and of those with a logit that is not finite; int64 2."""
    logits = model(noisy.clamp(0, 1))
    return torch.stack(((logits.argmax(1) != labels).sum(), (~logits.isfinite().all(1)).sum()))


def pick(images: Images, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Float pixels in [0, 1], channels last, and labels of some rows, on `device`."""
    rows = rows.to(images.x.device)
    x, labels = images.x[rows].to(device), images.y[rows].to(device)
    return channels_last(to_float(x)), labels


def channels_last(x: Tensor) -> Tensor:
    """The same values in channels-last memory layout."""
    return x.contiguous(memory_format=torch.channels_last)


class Noise(ABC):
    """Noise `values`, float32 M,C,H,W, that descends on `images`."""

    def __init__(self, images: Images, values: Tensor) -> None:
        self.images, self.values = images, values

    @abstractmethod
    def of(self, rows: Tensor, labels: Tensor) -> Tensor:
        """The noise of these images (int64 rows on the host, labels on a device), on the labels' device."""

    @abstractmethod
    def descend(self, descent: Descent, context: CraftContext) -> list[int]:
        """Update all values; returns the two counts of `judge` over all images."""


class ImageNoise(Noise):
    """One noise per image. The noise step is divided among workers."""

    def of(self, rows: Tensor, labels: Tensor) -> Tensor:
        return self.values[rows.to(self.values.device)].to(labels.device)

    def descend(self, descent: Descent, context: CraftContext) -> list[int]:
        workers, size = context.workers, descent.recipe.batch_size
        shares = self._shares(size, workers.size)
        if workers.size > 1:
            descent = replace(descent, model=copy.deepcopy(descent.model).to(CPU))
        results = workers.map(descend_share, descent, shares, device=context.device)
        for share, result in zip(shares, results, strict=True):
            if workers.size > 1:
                self.values[share.first * size :][: len(share.x)] = result.noise
        return [sum(counts) for counts in zip(*(result.counts for result in results), strict=True)]

    def _shares(self, size: int, number: int) -> list[Share]:
        """At most `number` shares of whole batches. A single share is the tensors themselves; several are
        copies, since pickling a view pickles the whole tensor."""
        whole, batches = (self.images.x, self.images.y, self.values), math.ceil(len(self.images) / size)
        bounds = [batches * i // number for i in range(number + 1)]
        shares = []
        for first, last in pairwise(bounds):
            parts = [part[first * size : last * size] for part in whole]
            if first < last:
                shares.append(Share(first, *(p.clone() if number > 1 else p for p in parts)))
        return shares


@dataclass(frozen=True)
class Share:
    """Whole batches from number `first` on: `x` uint8, `labels` int64, `noise` float32."""

    first: int
    x: Tensor
    labels: Tensor
    noise: Tensor


class Descended(NamedTuple):
    noise: Tensor
    counts: list[int]  # of `judge`


def descend_share(descent: Descent, share: Share, device: torch.device) -> Descended:
    """The share's noise after the noise step, updated in place; batch by batch on `device`, wherever the
    tensors are."""
    model = descent.model.to(device)
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    parts = (part.split(descent.recipe.batch_size) for part in (share.x, share.labels, share.noise))
    with repeatable(), descent.recipe.autocast(device):
        for batch, (pixels, hosted, noise) in enumerate(zip(*parts, strict=True), share.first):
            x, labels = channels_last(to_float(pixels.to(device))), hosted.to(device)
            moved = descent(x, labels, channels_last(noise.to(device)), batch)
            noise.copy_(moved)
            counts += judge(model, x + moved, labels)
    return Descended(share.noise, counts.tolist())


class ClassNoise(Noise):
    """One noise per class: each batch in turn sets it to the mean of the updates that its images ask for."""

    def __init__(self, images: Images, values: Tensor, epochs: Epochs) -> None:
        super().__init__(images, values)
        self.epochs = epochs
        values[torch.bincount(images.y, minlength=len(values)).to(values.device) == 0] = 0

    def of(self, rows: Tensor, labels: Tensor) -> Tensor:
        return self.values[labels]

    def descend(self, descent: Descent, context: CraftContext) -> list[int]:
        device = context.device
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        with descent.recipe.autocast(device):
            for batch, rows in enumerate(self.epochs.epoch(descent.round)):
                x, labels = pick(self.images, rows, device)
                moved = descent(x, labels, channels_last(self.values[labels]), batch).contiguous()
                for k in labels.unique().tolist():
                    self.values[k] = moved[labels == k].mean(0).clamp_(-descent.eps, descent.eps)
            for x, labels in feed(self.images, descent.recipe.batch_size, device):
                counts += judge(descent.model, channels_last(x + self.values[labels]), labels)
        return counts.tolist()


def begin(shape: tuple[int, ...], eps: float, device: torch.device, *, random: bool, seed: int) -> Tensor:
    """The initial noise: 0, or uniform in ±`eps`; on `device` if it fits, else on the host."""
    room = device.type != "cuda" or 4 * math.prod(shape) <= SHARE * torch.cuda.mem_get_info(device)[0]
    values = torch.zeros(shape, device=device if room else CPU)
    for number, some in enumerate(values.split(1024) if random else ()):
        gen = generator(CPU, seed, EM, BEGIN, number)
        some.copy_((2 * torch.rand(some.shape, generator=gen) - 1) * eps)
    return values


def passes_gradient(augmentation: Augmentation) -> bool:
    """Whether the augmentation lets gradients through to its input; tried on a few random images."""
    gen = torch.Generator().manual_seed(0)
    x = torch.rand((8, 3, 32, 32), generator=gen).requires_grad_()
    out, _ = augmentation(x, torch.full((8, 2), 0.5), gen)
    return out.requires_grad and bool(torch.autograd.grad(out.sum(), x)[0].any())


def _of_single_images(augmentations: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
    for one in augmentations:
        if one.mixes or not passes_gradient(one):
            raise ValueError(
                f"no gradient of single images passes {one.kind!r}, so noise cannot descend: "
                "use 'flip_crop' or 'subpixel_shift'"
            )
    return augmentations


Differentiable = Annotated[tuple[Augmentation, ...], AfterValidator(_of_single_images)]
"""Augmentations through which noise descends: they mix no images, and gradients pass."""
