"""The noise step of error-minimising noise: the noise of each image, or of each class, follows the gradient
of a generator's loss downwards."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poisons.base import CraftContext
from trainers.families import Augmentation, cross_entropy
from trainers.feed import SHARE, feed
from trainers.images import Images, to_float
from trainers.loop import generator
from trainers.pgd import input_gradient
from trainers.recipe import TrainSpec, repeatable

CPU = torch.device("cpu")
EM = 25965  # what the numbers of all random streams here begin with, after the seed
BEGIN, ORDER, TRAIN, DESCEND = range(4)  # and what they are for


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Within, the sums over a batch that gradients of weights are come out alike on a CPU, however many
    processors there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Laps:
    """`n` rows in batches of `size`, lap after lap: in order, or shuffled anew for each lap. An incomplete
    batch at a lap's end is left out if `drop_last`, unless there is no other."""

    n: int
    size: int
    shuffle: bool
    drop_last: bool
    seed: int
    stream: int

    def __len__(self) -> int:
        """Batches in a lap."""
        return (self.drop_last and self.n // self.size) or math.ceil(self.n / self.size)

    @property
    def last(self) -> int:
        """How many rows are in the last batch of a lap."""
        return min(self.n - (len(self) - 1) * self.size, self.size)

    def lap(self, number: int) -> Sequence[Tensor]:
        """The batches of one lap, as int64 rows on the host."""
        gen = generator(CPU, self.seed, EM, ORDER, self.stream, number)
        order = torch.randperm(self.n, generator=gen) if self.shuffle else torch.arange(self.n)
        return order.split(self.size)[: len(self)]


@dataclass(frozen=True)
class Descent:
    """How noise moves in one round: `steps` signed descents of the loss of `model`, `step` long each, within
    ±`eps`. `recipe` says in what batches and arithmetic, and what augments the images on their way."""

    model: nn.Module  # in eval mode; its weights ask for no gradient
    recipe: TrainSpec
    num_classes: int
    eps: float
    step: float
    steps: int
    seed: int
    round: int

    def __call__(self, x: Tensor, labels: Tensor, noise: Tensor, batch: int) -> Tensor:
        """The noise float N,C,H,W of batch number `batch`, from where it was: as it was before the last
        image was clipped to [0, 1], as published."""
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
    """`model` on images that are augmented anew at every call."""

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
    """How many noisy images are put into a wrong class, and of how many a logit is not finite; int64 2."""
    logits = model(noisy.clamp(0, 1))
    return torch.stack(((logits.argmax(1) != labels).sum(), (~logits.isfinite().all(1)).sum()))


def pick(images: Images, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Float pixels in [0, 1] and labels of some rows, on `device`, laid out as networks want them."""
    rows = rows.to(images.x.device)
    x, labels = images.x[rows].to(device), images.y[rows].to(device)
    return channels_last(to_float(x)), labels


def channels_last(x: Tensor) -> Tensor:
    """The same, with the channels of a pixel side by side in memory."""
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
        """Moves all values; then the two counts of `judge` over all images."""


class ImageNoise(Noise):
    """One noise per image. Its noise step is shared out among a workers."""

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
        """At most `number` runs of whole batches. One alone is the tensors themselves; several are copies,
        since a part of a tensor would be pickled with all of it."""
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
    """The share's noise after its noise step, written over what it was; batch by batch on `device`, wherever
    it lies."""
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
    """One noise per class: each batch moves it, before the next one, to the mean of where its images would
    have it."""

    def __init__(self, images: Images, values: Tensor, laps: Laps) -> None:
        super().__init__(images, values)
        self.laps = laps
        values[torch.bincount(images.y, minlength=len(values)).to(values.device) == 0] = 0

    def of(self, rows: Tensor, labels: Tensor) -> Tensor:
        return self.values[labels]

    def descend(self, descent: Descent, context: CraftContext) -> list[int]:
        device = context.device
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        with descent.recipe.autocast(device):
            for batch, rows in enumerate(self.laps.lap(descent.round)):
                x, labels = pick(self.images, rows, device)
                moved = descent(x, labels, channels_last(self.values[labels]), batch).contiguous()
                for k in labels.unique().tolist():
                    self.values[k] = moved[labels == k].mean(0).clamp_(-descent.eps, descent.eps)
            for x, labels in feed(self.images, descent.recipe.batch_size, device):
                counts += judge(descent.model, channels_last(x + self.values[labels]), labels)
        return counts.tolist()


def begin(shape: tuple[int, ...], eps: float, device: torch.device, *, random: bool, seed: int) -> Tensor:
    """Where noise begins: at 0, or uniform in ±`eps`; on `device` if there is room, else on the host."""
    room = device.type != "cuda" or 4 * math.prod(shape) <= SHARE * torch.cuda.mem_get_info(device)[0]
    values = torch.zeros(shape, device=device if room else CPU)
    for number, some in enumerate(values.split(1024) if random else ()):
        gen = generator(CPU, seed, EM, BEGIN, number)
        some.copy_((2 * torch.rand(some.shape, generator=gen) - 1) * eps)
    return values
