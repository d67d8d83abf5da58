"""Loss surface around a trained network along two filter-normalised random directions (Li, Xu, Taylor,
Studer, Goldstein; NeurIPS 2018): how sharp the basin is in which the training ended."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.evaluate import BATCH
from trainers.feed import feed, place
from trainers.flops import Work, tested
from trainers.images import Extent, Images
from trainers.last_batch import last_batch, refusal_of_one
from trainers.loop import generator
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, HeatMap, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError

TOP = torch.finfo(torch.float32).max  # in place of a NaN or infinite loss far from the centre
Measure = Callable[[nn.Module], Tensor]
Direction = tuple[nn.Parameter, Tensor, Tensor]  # a weight, and the two directions in which it is moved


class LossSurface(Probe, kind="loss_surface"):
    """Loss and accuracy on a square grid of points along two directions.

    Each filter of a direction is scaled to the norm of the network's filter. Biases and normalisation
    parameters stay fixed.

    Metrics `centre_loss` (nats), `centre_acc`, and `sharpness`, the mean loss on the border minus that of the
    centre. Fields `x`, `y` (offsets), `loss` and `acc` (a row for each y), `how`. Costs points² forward
    passes of `limit` images, twice as many if `recomputed`, and four times the weights' memory.
    """

    points: PositiveInt = 21
    """Points along each direction, an odd number from 3 on: one is the centre."""
    reach: PositiveFloat = 1.0
    """Largest offset along each direction; at 1 each filter has moved by its own norm."""
    on: Literal["train", "test"] = "train"
    """Which images: those trained on, or the clean test images."""
    limit: PositiveInt | None = 1000
    """Size of the class-balanced subset that is evaluated at each point; null takes all."""
    batch_norm: Literal["running", "recomputed"] = "running"
    """BatchNorm's statistics: the running ones, or those of `limit` training images at each point."""
    seed: int = 0
    """Seed of the directions; networks of one architecture share them."""
    smoke: ClassVar[dict[str, Any]] = {"points": 3, "limit": 20}

    @field_validator("points")
    @classmethod
    def _has_a_centre(cls, points: int) -> int:
        if points < 3 or points % 2 == 0:
            near = max(3, points + 1)
            raise ValueError(
                f"the centre is one of the points, so 3, 5, 7, ...; found {points}; write {near}"
            )
        return points

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("centre_loss", "centre_acc", "sharpness")

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="Loss around the trained weights, along two filter-normalised random directions. The cross "
            "is the network itself; colours are the loss in nats.",
            units={"centre_loss": "nats", "centre_acc": PERCENT, "sharpness": "nats"},
            picture=HeatMap(
                kind="heat_map",
                shows="loss surface",
                x="x",
                y="y",
                values="loss",
                scale="log",
                cross=True,
                metrics=["centre_loss", "sharpness"],
            ),
        )

    def work(self, examined: Examined) -> Work:
        images = examined.train if self.on == "train" else examined.test
        point = tested(images.at_most(self.limit), examined.network)
        if self.batch_norm == "recomputed":
            point += tested(examined.train.at_most(self.limit), examined.network)
        return point * self.points**2

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        number = train.at_most(self.limit)
        if self.batch_norm == "running" or last_batch(number, BATCH) != 1:
            return
        if refusal_of_one(spec.architecture, shape=train.shape, num_classes=train.num_classes):
            raise InputError(
                f"the probe {self.kind!r} takes the statistics of BatchNorm from {number} images, {BATCH} "
                "at a time, and this network cannot take them from the single image left over: "
                f"write limit: {number - 1 if number > 1 else 2}"
            )

    def run(self, subject: Subject) -> Finding:
        device = subject.device
        images = place((subject.train if self.on == "train" else subject.test).subset(self.limit), device)
        measure: Measure = partial(loss_and_accuracy, images=images, device=device)
        if self.batch_norm == "recomputed":
            measure = _with_new_statistics(measure, place(subject.train.subset(self.limit), device), device)
        model = copy.deepcopy(subject.model).eval()
        half = self.points // 2
        offsets = [(i - half) * self.reach / half for i in range(self.points)]
        grid = surface(model, directions(model, self.seed), offsets, measure).cpu()
        loss, acc = torch.nan_to_num(grid, nan=TOP, posinf=TOP).unbind(2)
        border = torch.ones_like(loss, dtype=torch.bool)
        border[1:-1, 1:-1] = False
        centre = loss[half, half].item()
        sharpness = loss[border].mean().item() - centre
        how = {"seed": self.seed, "on": self.on, "images": len(images), "batch_norm": self.batch_norm}
        return Finding(
            metrics={"centre_loss": centre, "centre_acc": acc[half, half].item(), "sharpness": sharpness},
            fields={"x": offsets, "y": offsets, "loss": loss.tolist(), "acc": acc.tolist(), "how": how},
        )


def directions(model: nn.Module, seed: int) -> list[Direction]:
    """For each weight of two or more dimensions two random directions from `seed`, with every filter (slice
    of dimension 0) scaled to the norm of the weight's filter. They do not depend on the device."""
    first, second = (generator(torch.device("cpu"), seed, way) for way in range(2))
    return [
        (p, _like(p, torch.randn(p.shape, generator=first)), _like(p, torch.randn(p.shape, generator=second)))
        for p in model.parameters()
        if p.ndim > 1
    ]


def _like(weight: Tensor, drawn: Tensor) -> Tensor:
    """`drawn` with each filter scaled to the norm of that of `weight`."""
    weight, drawn = weight.detach(), drawn.to(weight.device)
    tiny = torch.finfo(drawn.dtype).tiny
    per_filter = (len(weight), *[1] * (weight.ndim - 1))
    ratio = weight.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1).clamp(min=tiny)
    return drawn * ratio.view(per_filter)


@torch.no_grad()
def surface(
    model: nn.Module, moves: Sequence[Direction], offsets: Sequence[float], measure: Measure
) -> Tensor:
    """The M values of `measure` for `model` moved by x along the first direction and y along the second:
    Y,X,M. The weights are restored."""
    centres = [weight.clone() for weight, _, _ in moves]

    def at(x: float, y: float) -> Tensor:
        for (weight, first, second), centre in zip(moves, centres, strict=True):
            weight.copy_(centre + x * first + y * second)
        return measure(model)

    grid = torch.stack([torch.stack([at(x, y) for x in offsets]) for y in offsets])
    for (weight, _, _), centre in zip(moves, centres, strict=True):
        weight.copy_(centre)
    return grid


@torch.no_grad()
def loss_and_accuracy(model: nn.Module, images: Images, device: torch.device) -> Tensor:
    """The mean cross-entropy in nats and the accuracy: float64 2, on `device`."""
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for x, labels in feed(images, BATCH, device):
        logits = model(x.contiguous(memory_format=torch.channels_last)).float()
        total[0] += F.cross_entropy(logits, labels, reduction="sum")
        total[1] += (logits.argmax(1) == labels).sum()
    return total / len(images)


def _with_new_statistics(measure: Measure, images: Images, device: torch.device) -> Measure:
    def measure_after(model: nn.Module) -> Tensor:
        take_statistics(model, images, device)
        return measure(model)

    return measure_after


@torch.no_grad()
def take_statistics(model: nn.Module, images: Images, device: torch.device) -> None:
    """Set the running statistics of each BatchNorm in `model` to those of `images`, the mean over batches.
    All other modules stay in eval mode; the BatchNorms return to it."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
    for x, _ in feed(images, BATCH, device):
        model(x.contiguous(memory_format=torch.channels_last))
    for norm in norms:
        norm.eval()
