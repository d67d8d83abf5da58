"""The training loop, the only one: a spec, images and a seed in, a trained network and its history out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import nn
from torch.nn import functional as F

from trainers.architectures.resnet import ResNet18
from trainers.augmentations.flip_crop import FlipCrop
from trainers.defenses.erm import Erm
from trainers.evaluate import accuracy
from trainers.families import Architecture, Augmentation, Defense, Optimizer, Schedule
from trainers.images import Images, batches
from trainers.optimizers.sgd import Sgd
from trainers.schedules.multi_step import MultiStep
from trainers.spec import Spec

METRICS = ("test/clean_acc", "test/peak_clean_acc", "test/peak_epoch", "train/acc", "train/loss")
Metrics = dict[str, float]
Report = Callable[[Metrics], None]


class TrainSpec(Spec):
    """How a network is trained. The defaults are the One-Pixel Shortcut paper's recipe for CIFAR-10 (Wu et
    al., ICLR 2023)."""

    architecture: Architecture = ResNet18()
    augmentations: tuple[Augmentation, ...] = (FlipCrop(),)
    defense: Defense = Erm()
    optimizer: Optimizer = Sgd()
    schedule: Schedule = MultiStep()
    epochs: PositiveInt = 200
    batch_size: PositiveInt = 128
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Trained:
    """A trained network and one row of metrics per epoch."""

    model: nn.Module
    history: list[Metrics]


class DivergenceError(ArithmeticError):
    """The training loss stopped being a number."""


def fit(
    spec: TrainSpec,
    train: Images,
    test: Images,
    *,
    seed: int,
    device: torch.device,
    report: Report = lambda _: None,
) -> Trained:
    """Train on `train`, look at `test` after every epoch; `report` is given each epoch's row.

    Equal arguments give equal numbers on a CPU with the same number of threads, and on a GPU as far as its
    kernels are deterministic. Each epoch draws from its own generator. Raises DivergenceError, naming the
    epoch, when the loss is no longer finite.
    """
    train, test = spec.defense.prepare(train).to(device), test.to(device)
    model = spec.architecture.network(num_classes=train.num_classes, shape=train.shape, seed=seed)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = spec.optimizer.build(model)
    history: list[Metrics] = []
    for epoch in range(1, spec.epochs + 1):
        row = {"epoch": float(epoch), **train_epoch(spec, model, optimizer, train, epoch=epoch, seed=seed)}
        if not math.isfinite(row["train/loss"]):
            raise DivergenceError(
                f"the training loss became {row['train/loss']} in epoch {epoch}; try a smaller optimizer.lr"
            )
        with autocast(spec, device):
            row["test/clean_acc"] = accuracy(model, test)
        history.append(row)
        report(row)
    return Trained(model, history)


def train_epoch(
    spec: TrainSpec,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Images,
    *,
    epoch: int,
    seed: int,
) -> Metrics:
    """One pass over `train` in a fresh random order; the mean loss and accuracy on the batches as they were
    trained on."""
    device = train.x.device
    gen = generator(device, seed, epoch)
    order = torch.randperm(len(train), generator=gen, device=device)
    steps = math.ceil(len(train) / spec.batch_size)
    loss_sum, right = torch.zeros(2, device=device).unbind()
    model.train()
    for i, (x, labels) in enumerate(batches(train, spec.batch_size, order)):
        lr = spec.optimizer.lr * spec.schedule.factor((epoch - 1 + (i + 0.5) / steps) / spec.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        y = F.one_hot(labels, train.num_classes).float()
        for augment in spec.augmentations:
            x, y = augment(x, y, gen)
        with autocast(spec, device):
            loss, logits = spec.defense.loss(model, x.contiguous(memory_format=torch.channels_last), y, gen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(x)
        right += (logits.detach().argmax(1) == y.argmax(1)).sum()
    return {"train/loss": loss_sum.item() / len(train), "train/acc": right.item() / len(train), "lr": lr}


def autocast(spec: TrainSpec, device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 arithmetic around float32 weights where the spec asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bfloat16")


def generator(device: torch.device, *parts: int) -> torch.Generator:
    """A random generator on `device` whose stream is named by `parts`, such as (seed, epoch)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def summary(history: list[Metrics]) -> Metrics:
    """The last row's metrics, with the peak of the clean test accuracy and the first epoch that reached
    it."""
    peak = max(history, key=lambda row: row["test/clean_acc"])
    last = {name: value for name, value in history[-1].items() if name not in ("epoch", "lr")}
    return {**last, "test/peak_clean_acc": peak["test/clean_acc"], "test/peak_epoch": peak["epoch"]}
