"""Perturbation-induced linearisation, PIL (ICLR 2026, arXiv 2601.19967): noise that a linear classifier
reads, on images in which it finds nothing else."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from poisons.base import CraftContext, Poison
from poisons.perturbations.delta import Delta, NoiseEps, whole_levels
from poisons.rng import rng
from trainers.feed import feed, place
from trainers.flops import Work
from trainers.images import Extent, Images, to_float
from trainers.loop import DivergenceError
from trainers.meta import Shape
from trainers.recipe import one_thread, repeatable
from trainers.spec import InputError, Step

MOMENTUM = 0.9  # of the linear classifier's training
# values written for each of the images, in an epoch of the classifier and in a step of the noise
WRITES = (4, 6)
KERNELS = (30, 22)  # for each batch, likewise


class Pil(Poison, kind="pil", version=3):
    """Subtracts noise from every image: a linear classifier of clean images reads the class from the noise
    alone, and nothing from the image without it. No deep network is needed.

    Signed steps minimise share·CE(f(noise), class) + (1 - share)·KL(uniform, f(image - noise)), where f is a
    linear classifier without bias, two layers deep, as released. It is trained on images in random order, the
    released one on images as they are stored.
    """

    needs: ClassVar[str] = "a linear classifier"
    bound: ClassVar[str] = "Linf eps"
    published: ClassVar[str] = "ICLR 2026"
    wants_gpu: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {"steps": 3, "linear_epochs": 2}
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    step: Step | None = None
    """Length of a step, above 0, in units of the pixel range; null is eps/10."""
    steps: PositiveInt = 30
    """Steps of the noise."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Weight of the class in the noise, against that of nothing in the image (paper: λ)."""
    linear_epochs: PositiveInt = 30
    """Epochs of the linear classifier."""
    linear_lr: PositiveFloat = 3e-3
    """Learning rate of the linear classifier, which falls to 0 as a cosine over the epochs."""
    linear_batch_size: PositiveInt = 512
    """Images of one step of the linear classifier."""

    @property
    def transfers(self) -> bool:
        return False

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        values, batches = images * math.prod(shape), math.ceil(images / self.linear_batch_size)
        training, step = (
            Work(products * 2.0 * values * num_classes, values=writes * values, kernels=kernels * batches)
            for products, writes, kernels in zip((2, 3), WRITES, KERNELS, strict=True)
        )
        return training * self.linear_epochs + step * self.steps

    def check(self, clean: Extent) -> None:
        if not clean.images:
            raise InputError("pil: noise is crafted from images, and there are none")

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """DivergenceError if the classifier's weights are no longer finite."""
        self.check(clean.extent)
        device = context.device
        with repeatable(), one_thread(device):
            placed = place(clean, device)
            weights, accuracy = self._classifier(placed, seed, context)
            levels = torch.empty(clean.x.shape, dtype=torch.int8 if self.eps * 255 < 128 else torch.int16)
            step = float(self.eps / 10 if self.step is None else self.step)
            size = self.linear_batch_size
            for i, some in enumerate(placed.chunks(size)):
                noise = self._begin(some, seed, i).to(device)
                x, labels = to_float(some.x.to(device)), some.y.to(device)
                for _ in range(self.steps):
                    gradient = noise_gradient(weights, x, labels, noise, self.share)
                    noise = (noise - step * gradient.sign()).clamp(-float(self.eps), float(self.eps))
                levels[i * size : i * size + len(some)] = whole_levels(-noise, "signed", self.eps)
                context.report({"images": i * size + len(some)})
        return Delta(levels, "image", {"linear_accuracy": round(accuracy, 4)})

    def _begin(self, some: Images, seed: int, batch: int) -> Tensor:
        """Noise that is uniform in the budget."""
        gen = rng(seed, f"pil noise {batch}")
        return (2 * torch.rand(some.x.shape, generator=gen) - 1) * float(self.eps)

    def _classifier(self, clean: Images, seed: int, context: CraftContext) -> tuple[Tensor, float]:
        """The product of the classifier's layers, float32 K,C·H·W, and its accuracy on the clean images."""
        device, values = context.device, math.prod(clean.shape)
        layers = [_drawn(clean.num_classes, n, seed).to(device) for n in (values, clean.num_classes)]
        optimizer = torch.optim.SGD([w.requires_grad_() for w in layers], momentum=MOMENTUM)
        right = 0
        for epoch in range(self.linear_epochs):
            rate = self.linear_lr * 0.5 * (1 + math.cos(math.pi * epoch / self.linear_epochs))
            optimizer.param_groups[0]["lr"] = rate
            order = torch.randperm(len(clean), generator=rng(seed, f"pil order {epoch}")).to(clean.x.device)
            hits = torch.zeros((), dtype=torch.int64, device=device)
            for x, labels in feed(clean, self.linear_batch_size, device, order):
                logits = x.flatten(1) @ layers[0].mT @ layers[1].mT
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                hits += (logits.detach().argmax(1) == labels).sum()
            right = int(hits)
            context.report({"linear_epoch": epoch + 1, "accuracy": round(right / len(clean), 4)})
        weights = (layers[1] @ layers[0]).detach()
        if not weights.isfinite().all():
            raise DivergenceError("pil: the linear classifier diverged; try a smaller linear_lr")
        return weights, right / len(clean)


def _drawn(rows: int, columns: int, seed: int) -> Tensor:
    """Initial weights as torch draws those of a linear layer: uniform within 1/√columns."""
    gen = rng(seed, f"pil weights {columns}")
    return (2 * torch.rand((rows, columns), generator=gen) - 1) / math.sqrt(columns)


def noise_gradient(weights: Tensor, x: Tensor, labels: Tensor, noise: Tensor, share: float) -> Tensor:
    """The gradient of the loss of each image with respect to its noise, N,C,H,W, in closed form: for linear
    logits the error of a softmax is its value minus its target."""
    wrong = (noise.flatten(1) @ weights.mT).softmax(1)
    wrong -= F.one_hot(labels, len(weights))
    seen = ((x - noise).flatten(1) @ weights.mT).softmax(1) - 1 / len(weights)
    return ((share * wrong - (1 - share) * seen) @ weights).view_as(noise)
