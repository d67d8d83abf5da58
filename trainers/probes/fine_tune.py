"""Whether a poison also fools a pretrained network: its training continues on each set of images, as in
section 3.3 of the One-Pixel Shortcut paper (Wu et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt

from trainers.evaluate import accuracy
from trainers.flops import Work, tested, training_work
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import DivergenceError, fit
from trainers.probe import Examined, Finding, Probe, Subject, metrics_of
from trainers.probe_view import PERCENT, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError


class FineTune(Probe, kind="fine_tune", version=2):
    """For a trial trained on clean images: fine-tunes a copy of its network on each set, with the trial's
    recipe and seed except for `epochs` and `lr`, through the whole schedule.

    The curve `<set>` is the accuracy on the test images before (index 0) and after each epoch; `<set>_acc` is
    its last value, `<set>_peak_acc` the best after an epoch. A defense that trains a network to restore the
    trial's images does not restore the sets. Costs `epochs` epochs of training for each set,
    and a forward pass of the test images after each epoch.
    """

    epochs: PositiveInt = 10
    """Epochs of fine-tuning on each set."""
    lr: Annotated[float, Field(ge=0)] = 0.01
    """Full learning rate of the fine-tuning; at 0 only running statistics change."""
    smoke: ClassVar[dict[str, Any]] = {"epochs": 1}

    def work(self, examined: Examined) -> Work:
        network, test = examined.network, examined.test.images
        spec = examined.spec.model_copy(update={"epochs": self.epochs})
        tuned = [
            training_work(spec, network, train=images.images, test=test) for images in examined.sets.values()
        ]
        return sum(tuned, tested(test, network))

    @property
    def per_set(self) -> tuple[str, ...]:
        return ("acc", "peak_acc")

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="Accuracy on clean test images while a network trained on clean images is trained further "
            "on each set.",
            units=dict.fromkeys((*sets, *metrics_of(self, sets)), PERCENT),
            first_epoch=0,
        )

    def check(self, names: Iterable[str]) -> None:
        if not tuple(names):
            raise InputError(
                f"the probe {self.kind!r} fine-tunes on sets of images, and was given none: "
                "write sets: {ops: {poison: ops}}"
            )

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        for name, images in sets.items():
            try:
                check_last_batch(spec.architecture, images, spec.batch_size, limit="limit of the set")
            except InputError as error:
                raise InputError(
                    f"the probe {self.kind!r} cannot be trained on the set {name!r}: {error}"
                ) from None

    def run(self, subject: Subject) -> Finding:
        before = accuracy(subject.model, subject.test, subject.device)
        curves = {name: [before, *self._tuned(subject, name, im)] for name, im in subject.sets.items()}
        last = {f"{name}_acc": curve[-1] for name, curve in curves.items()}
        return Finding(last | {f"{name}_peak_acc": max(c[1:]) for name, c in curves.items()}, curves)

    def _tuned(self, subject: Subject, name: str, images: Images) -> list[float]:
        """The accuracy on the test images after each epoch on `images`."""
        optimizer = subject.spec.optimizer.model_copy(update={"lr": self.lr})  # only a probe may use 0
        spec = subject.spec.model_copy(update={"epochs": self.epochs, "optimizer": optimizer})
        start = subject.model.state_dict()
        try:
            with torch.autocast(subject.device.type, enabled=False):  # `fit` enters its own
                trained = fit(
                    spec,
                    images,
                    subject.test,
                    seed=subject.seed,
                    device=subject.device,
                    start=start,
                    restored=True,
                )
        except DivergenceError as error:
            raise DivergenceError(
                f"fine_tune on {name!r} diverged in epoch {len(error.history) + 1}: "
                f"give the probe a smaller lr than {self.lr:g}"
            ) from None
        return [row["test/clean_acc"] for row in trained.history]
