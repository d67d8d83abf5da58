"""Whether a linear classifier separates the classes by the perturbations alone (Yu, Zhang, Chen, Yin, Liu;
"Availability Attacks Create Shortcuts", KDD 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from trainers.flops import Work
from trainers.images import Extent, Images, balanced
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ProbeView
from trainers.probes.pairs import check_pair_extents, check_pairs
from trainers.recipe import TrainSpec
from trainers.softmax_regression import EVALUATIONS, regression_work
from trainers.spec import InputError

ROWS = 4096  # perturbations converted to float at a time
HISTORY = 10  # L-BFGS history; each step is as large as the classifier


class LinearSeparability(Probe, kind="linear_separability"):
    """Softmax regression on the difference between the training images and the set `clean`, flattened and
    scaled to [0, 1] by the global minimum and maximum. It does not use the network.

    Metrics `acc`, on the perturbations fitted, and `held_out_acc`, on the others. With fewer images than
    values per image any noise is separable, so `acc` alone says little; and noise clipped at 0 and 255
    reveals the image under it. Fields `fitted` and `held_out` (counts), `loss` (nats, after the fit).

    The fit is full-batch L-BFGS from zero weights; the line search is not the published one. Costs up to 1.25
    passes over the perturbations per iteration, and two bytes of memory for each of their values. InputError
    if `clean` does not hold the same images, row by row, or if a class has no images left to fit.
    """

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    limit: PositiveInt | None = None
    """Size of a class-balanced subset of the training images; null takes all."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class that is held out of the fit."""
    iterations: PositiveInt = 1000
    """Most iterations of L-BFGS; the default is the published number."""
    smoke: ClassVar[dict[str, Any]] = {"iterations": 20}

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("acc", "held_out_acc")

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="How well a linear classifier predicts the labels from the perturbation alone.",
            units=dict.fromkeys(self.metrics, PERCENT),
        )

    def work(self, examined: Examined) -> Work:
        train, size = examined.train, math.prod(examined.train.shape)
        rows = round((1 - self.share) * train.at_most(self.limit))
        scaling = Work(values=3.0 * rows * size) * (EVALUATIONS * self.iterations)
        return scaling + regression_work(rows, size, train.num_classes, self.iterations)

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        if "clean" in sets:
            check_pair_extents(train, sets["clean"], probe=self.kind, name="the training set")

    def check_images(self, train: Images, sets: Mapping[str, Images]) -> None:
        check_pairs(train, sets["clean"], probe=self.kind, name="the training set")
        labels = train.y.cpu()[balanced(train.y.cpu(), self.limit)]
        out = held_out(labels, train.num_classes, self.share)
        self._check_left(labels, labels[~out], train.num_classes)

    def run(self, subject: Subject) -> Finding:
        train, device = subject.train, subject.device
        rows = perturbations(train, subject.sets["clean"], self.limit).to(device)
        out = held_out(rows.labels, train.num_classes, self.share)
        self._check_left(rows.labels, rows.labels[~out], train.num_classes)
        fitted, others = rows.take(~out), rows.take(out)
        with torch.autocast(device.type, enabled=False):
            linear = fit(fitted, train.num_classes, self.iterations)
            (loss, acc), (_, held_out_acc) = (
                loss_and_accuracy(fitted, linear),
                loss_and_accuracy(others, linear),
            )
        return Finding(
            metrics={"acc": acc, "held_out_acc": held_out_acc},
            fields={"fitted": len(fitted.labels), "held_out": len(others.labels), "loss": loss},
        )

    def _check_left(self, labels: Tensor, fitted: Tensor, num_classes: int) -> None:
        """InputError if a class has no images left to fit."""
        before, after = labels.bincount(minlength=num_classes), fitted.bincount(minlength=num_classes)
        if len(lost := ((before > 0) & (after == 0)).nonzero()):
            k = int(lost[0])
            raise InputError(
                f"the probe {self.kind!r} holds {self.share:g} of each class out of its fit, and nothing is "
                f"left of class {k} ({before[k]} in all): write a smaller share, or take more images"
            )


@dataclass(frozen=True)
class Rows:
    """Perturbations N,D in levels, int16 or float32, and their labels, int64 N. As floats they are scaled to
    [0, 1] by `low` and `high`, the common minimum and maximum of all sets compared."""

    delta: Tensor
    labels: Tensor
    low: float
    high: float

    def to(self, device: torch.device) -> Rows:
        return Rows(self.delta.to(device), self.labels.to(device), self.low, self.high)

    def take(self, some: Tensor) -> Rows:
        """Those where `some` (bool N) is true."""
        return Rows(self.delta[some], self.labels[some], self.low, self.high)

    def floats(self) -> Iterator[tuple[Tensor, Tensor]]:
        """float32 R,D in [0, 1] and labels R, ROWS at a time; zeros if all values are equal."""
        span = max(1, self.high - self.low)
        for delta, labels in zip(self.delta.split(ROWS), self.labels.split(ROWS), strict=True):
            yield (delta.float() - self.low) / span, labels


@dataclass(frozen=True)
class Linear:
    """Logits are x · weight + bias: D,K and K."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def perturbations(train: Images, clean: Images, limit: int | None) -> Rows:
    """The difference between `train` and `clean`, for a class-balanced `limit` of rows. InputError if `clean`
    does not hold the same images, as far as labels and shape show."""
    check_pairs(train, clean, probe="linear_separability", name="the training set")
    train, clean = train.subset(limit), clean.subset(limit)
    parts = zip(train.chunks(ROWS), clean.chunks(ROWS), strict=True)
    delta = torch.cat([(_levels(a) - _levels(b)).flatten(1) for a, b in parts])
    return Rows(delta, train.y.cpu(), delta.min().item(), delta.max().item())


def _levels(images: Images) -> Tensor:
    """Whole levels as int16; those of FloatImages as float32."""
    return images.x.cpu() * 255 if images.x.is_floating_point() else images.x.cpu().short()


def held_out(labels: Tensor, num_classes: int, share: float) -> Tensor:
    """`share` of each class (rounded up), in one fixed random order: bool N."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
    shuffled = labels[order]
    out = torch.zeros_like(labels, dtype=torch.bool)
    for k in range(num_classes):
        mine = order[shuffled == k]
        out[mine[: math.ceil(share * len(mine))]] = True
    return out


def fit(rows: Rows, num_classes: int, iterations: int) -> Linear:
    """The softmax regression of `rows`, after at most `iterations` of L-BFGS from zero."""
    zeros = torch.zeros(rows.delta.shape[1] + 1, num_classes, device=rows.delta.device)
    linear = Linear(zeros[1:].clone().requires_grad_(), zeros[0].clone().requires_grad_())
    optimizer = torch.optim.LBFGS(
        [linear.weight, linear.bias],
        max_iter=iterations,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = zeros.new_zeros(())
        for x, labels in rows.floats():
            part = F.cross_entropy(linear(x), labels, reduction="sum") / len(rows.labels)
            part.backward()
            total += part.detach()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return Linear(linear.weight.detach(), linear.bias.detach())


def loss_and_accuracy(rows: Rows, linear: Linear) -> tuple[float, float]:
    """The mean cross-entropy in nats, and the accuracy on `rows`."""
    loss, right = 0.0, 0
    for x, labels in rows.floats():
        logits = linear(x)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
    return loss / len(rows.labels), right / len(rows.labels)
