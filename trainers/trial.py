"""A trial: one training and its evaluation, from a spec and images to a record."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from trainers.checkpoint import Checkpoint
from trainers.evaluate import EvaluationSpec, evaluate
from trainers.images import Images
from trainers.loop import Report, fit, generator, memory_named, summary
from trainers.provenance import environment
from trainers.recipe import TrainSpec, repeatable
from trainers.spec import InputError, Spec, plain

METRICS = (
    "test/clean_acc",
    "test/peak_clean_acc",
    "test/peak_epoch",
    "train/acc",
    "train/loss",
    "train/unaugmented_acc",
)


class Trial(Spec):
    """One training and its evaluation, on images that somebody else chooses: of the test images, a
    class-balanced `evaluation.limit`."""

    train: TrainSpec = TrainSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the numbers that its record will hold."""
        return METRICS + tuple(f"test/{attack.name}_acc" for attack in self.evaluation.attacks)

    def run(
        self,
        train: Images,
        test: Images,
        *,
        device: torch.device,
        report: Report = lambda _: None,
        checkpoint: Checkpoint | None = None,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The trained network and its record, as JSON types; `report` is given each epoch's row. Raises what
        `fit` does, and InputError if the two sets of images do not belong together."""
        if (train.shape, train.num_classes) != (test.shape, test.num_classes):
            raise InputError(
                f"training images are {train.shape} in {train.num_classes} classes, "
                f"test images {test.shape} in {test.num_classes}; they must agree"
            )
        for attack in self.evaluation.attacks:
            attack.check_ready()
        spec, test = self.train, test.subset(self.evaluation.limit)
        trained = fit(spec, train, test, seed=self.seed, device=device, report=report, checkpoint=checkpoint)
        start = time.monotonic()
        memorises = spec.defense.memorises and spec.architecture.memorises
        with memory_named(spec, train, device), repeatable(), spec.autocast(device):
            seen = evaluate(
                trained.model,
                train,
                test,
                self.evaluation,
                gen=generator(device, self.seed, 0),
                batch_size=spec.batch_size,
                memorises=memorises,
            )
        return trained.model, {
            "spec": plain(self),
            "metrics": summary(trained.history) | seen.metrics,
            "per_class_acc": seen.per_class,
            "warnings": seen.warnings + (checkpoint.warnings if checkpoint else []),
            "history": trained.history,
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "seconds": round(trained.seconds + time.monotonic() - start, 3),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": spec.arithmetic(device),
            "threads": torch.get_num_threads(),
            "environment": environment(),
        }
