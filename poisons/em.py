"""Error-minimising noise (Huang, Ma, Erfani, Bailey, Wang; ICLR 2021), sample-wise: noise that leaves
nothing to learn.

A bi-level loop: a generator network takes a few steps on the noisy images, then every image's noise
descends the generator's loss, until the generator makes almost no error on the noisy images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from poisons.base import Perturbation, Poison, Report
from trainers.architectures.resnet import ResNet18
from trainers.attacks import Frozen, input_gradient
from trainers.families import Architecture, Optimizer
from trainers.images import Images, to_float
from trainers.loop import DivergenceError
from trainers.optimizers.sgd import Sgd
from trainers.spec import Eps


class Em(Poison, kind="em"):
    """Sample-wise noise within ±`eps`, signed and rounded once to whole levels; the defaults are the
    paper's for CIFAR-10. Unlike the published generator, ours normalises its images inside, as every
    network here does.

    Each round takes `train_steps` steps of the generator, then `steps` descents of every image's noise of
    `step` (default eps/10) each. It ends when the generator's error on the noisy images is at most
    `stop_error`, or after `max_rounds`; the record tells which.
    """

    wants_gpu: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {
        "generator": {"kind": "resnet18", "width": 4},
        "steps": 2,
        "train_steps": 2,
        "max_rounds": 2,
        "batch_size": 64,
    }
    generator: Architecture = ResNet18()
    eps: Eps = Fraction(8, 255)
    step: Eps | None = None
    steps: PositiveInt = 20
    train_steps: PositiveInt = 10
    max_rounds: PositiveInt = 50
    stop_error: Annotated[float, Field(ge=0, lt=1)] = 0.01
    batch_size: PositiveInt = 512
    optimizer: Optimizer = Sgd()
    max_grad_norm: PositiveFloat = 5.0

    @field_validator("eps")
    @classmethod
    def _a_level_at_least(cls, eps: Fraction) -> Fraction:
        if not Fraction(1, 255) <= eps <= 1:
            raise ValueError(f"eps lies between 1/255 (one level) and 1; found {eps}; write 8/255")
        return eps

    def craft(
        self, clean: Images, *, seed: int, device: torch.device, report: Report = lambda _: None
    ) -> Perturbation:
        clean = clean.to(device)
        model = self.generator.network(num_classes=clean.num_classes, shape=clean.shape, seed=seed)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = self.optimizer.build(model)
        noise = torch.zeros(clean.x.shape, device=device)
        turn = _cycle(len(clean), self.batch_size)
        trace: list[dict[str, Any]] = []
        for number in range(1, self.max_rounds + 1):
            start = time.monotonic()
            for _ in range(self.train_steps):
                train_step(model, optimizer, clean, noise, next(turn), max_grad_norm=self.max_grad_norm)
            with Frozen(model):
                for batch in torch.arange(len(clean), device=device).split(self.batch_size):
                    noise[batch] = self.descend(model, to_float(clean.x[batch]), clean.y[batch], noise[batch])
                error = generator_error(model, clean, noise, self.batch_size)
            if not noise.isfinite().all() or not all(p.isfinite().all() for p in model.parameters()):
                raise DivergenceError(f"the generator diverged in round {number}; try a smaller optimizer.lr")
            trace.append({"round": number, "error": error, "seconds": round(time.monotonic() - start, 3)})
            report(trace[-1])
            if error <= self.stop_error:
                break
        return Delta.rounded(noise.cpu(), self.eps, trace, stop_error=self.stop_error)

    def descend(self, model: nn.Module, x: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """`noise` float N,C,H,W after `steps` signed descents from where it was, within ±eps."""
        eps, step = float(self.eps), float(self.eps / 10 if self.step is None else self.step)
        z = (x + noise).clamp(0, 1)
        for _ in range(self.steps):
            grad = input_gradient(model, z, labels, F.cross_entropy)
            noise = (z - step * grad.sign() - x).clamp(-eps, eps)
            z = (x + noise).clamp(0, 1)
        return noise


@dataclass(frozen=True)
class Delta(Perturbation):
    """Adds `delta` (int16 N,C,H,W, in levels of 1/255), one per image in order, and clips to 0..255."""

    delta: Tensor
    told: dict[str, Any]

    @staticmethod
    def rounded(noise: Tensor, eps: Fraction, trace: list[dict[str, Any]], *, stop_error: float) -> Delta:
        """Round float noise once to whole levels, and never beyond the budget."""
        limit = math.floor(eps * 255)
        delta = (noise * 255).round().clamp(-limit, limit).to(torch.int16)
        return Delta(delta, {"rounds": trace, "reached_stop_error": trace[-1]["error"] <= stop_error})

    def apply(self, images: Images) -> Images:
        if images.x.shape != self.delta.shape:
            raise ValueError(
                f"noise for {tuple(self.delta.shape)} cannot go on images {tuple(images.x.shape)}"
            )
        x = (images.x.to(torch.int16) + self.delta.to(images.x.device)).clamp(0, 255).to(torch.uint8)
        return Images(x, images.y, images.num_classes)

    def facts(self) -> dict[str, Any]:
        return self.told


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clean: Images,
    noise: Tensor,
    batch: slice,
    *,
    max_grad_norm: float,
) -> None:
    """One step of the generator on one noisy batch. As published, the sum is not clipped to [0, 1] here."""
    model.train()
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(to_float(clean.x[batch]) + noise[batch]), clean.y[batch]).backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()


@torch.no_grad()
def generator_error(model: nn.Module, clean: Images, noise: Tensor, batch_size: int) -> float:
    """The share of noisy images that the model, in the mode it is in, puts into a wrong class."""
    wrong = torch.zeros((), dtype=torch.int64, device=noise.device)
    for start in range(0, len(clean), batch_size):
        batch = slice(start, start + batch_size)
        x = (to_float(clean.x[batch]) + noise[batch]).clamp(0, 1)
        wrong += (model(x).argmax(1) != clean.y[batch]).sum()
    return wrong.item() / len(clean)


def _cycle(n: int, batch_size: int) -> Iterator[slice]:
    """Batches in order, round after round without end: the generator goes on where it stopped, as
    published."""
    while True:
        yield from (slice(start, start + batch_size) for start in range(0, n, batch_size))
