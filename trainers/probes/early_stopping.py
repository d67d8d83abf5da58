"""Whether early stopping helps: the epoch that is best on held-out clean images, and its accuracy on the
others. A trainer with some clean images could do that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.evaluate import correct, share
from trainers.feed import place
from trainers.flops import Work, tested
from trainers.images import Extent, Images
from trainers.pgd import Frozen
from trainers.probe import Examined, Finding, Probe, Row, Subject, Watch
from trainers.probe_view import PERCENT, Mark, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError


class EarlyStopping(Probe, kind="early_stopping"):
    """Holds out some of the clean test images, and evaluates each epoch on both parts.

    `stopped_acc` is the accuracy on the rest at `stopped_epoch`, the first epoch that is best on the held-out
    part; `peak_acc` the best accuracy on the rest over all epochs, at `peak_epoch`, which a trainer could not
    know; `last_acc` that of the last epoch. Costs one forward pass of the test images per epoch.
    """

    watches = True
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the clean test images that is held out to choose the epoch."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("last_acc", "peak_acc", "peak_epoch", "stopped_acc", "stopped_epoch")

    def view(self, sets: Sequence[str]) -> ProbeView:
        marks = (("peak", False, "best of all"), ("stopped", True, "best on held-out images"))
        return ProbeView(
            says="Accuracy on clean images used neither for training nor for selection. A filled dot is the "
            "epoch that is best on held-out clean images, a hollow dot the best of all.",
            units=dict.fromkeys(("holdout_acc", "rest_acc", "last_acc", "peak_acc", "stopped_acc"), PERCENT),
            curves=["rest_acc"],
            marks=[
                Mark(
                    curve="rest_acc",
                    epoch=f"{which}_epoch",
                    value=f"{which}_acc",
                    filled=filled,
                    says=f"{what}: {{value}} at epoch {{epoch}}",
                )
                for which, filled, what in marks
            ],
        )

    def work(self, examined: Examined) -> Work:
        return tested(examined.test.images, examined.network) * examined.spec.epochs

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        number_held(test.images, self.share)

    def watch(self, initial: nn.Module, test: Images, device: torch.device) -> Watch:
        held, images = held_out(test, self.share).to(device), place(test, device)

        def measure(model: nn.Module, _: Row) -> Row:
            with Frozen(model):
                answers = correct(model, images, device)
            return {"holdout_acc": share(answers[held]), "rest_acc": share(answers[~held])}

        return measure

    def run(self, subject: Subject) -> Finding:
        names = ("holdout_acc", "rest_acc")
        held, rest = ([row[name] for row in subject.watched] for name in names)
        peak, stopped = rest.index(max(rest)), held.index(max(held))
        metrics = {"last_acc": rest[-1], "peak_acc": rest[peak], "peak_epoch": peak + 1.0}
        metrics |= {"stopped_acc": rest[stopped], "stopped_epoch": stopped + 1.0}
        return Finding(metrics, {"holdout_acc": held, "rest_acc": rest})


def held_out(images: Images, part: float) -> Tensor:
    """Which images are held out, bool N on the host: a class-balanced `part`. InputError if none, or all."""
    held = torch.zeros(len(images), dtype=torch.bool)
    held[images.balanced(number_held(len(images), part))] = True
    return held


def number_held(images: int, part: float) -> int:
    """The number of images to hold out. InputError if it is none, or all."""
    number = round(part * images)
    if not 0 < number < images:
        raise InputError(
            f"early_stopping: a share of {part:g} of {images} test images leaves one part empty; "
            "choose another share, or more images"
        )
    return number
