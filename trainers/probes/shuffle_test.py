"""The shuffle test: what a network predicts for images with a perturbation, especially the perturbation of
another image. Table 1 of the One-Pixel Shortcut paper (Wu et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainers.evaluate import accuracy
from trainers.probe import Finding, Probe, Subject
from trainers.probe_view import PERCENT, ProbeView
from trainers.spec import InputError


class ShuffleTest(Probe, kind="shuffle_test"):
    """`<set>_acc`, the accuracy on each set, and `chance`, that of guessing (1 / classes).

    In a set `{poison: em, shuffled: true}` labels belong to the perturbations, so an accuracy far above
    chance shows that the network reads the perturbation, whatever image is under it. Costs one forward pass
    of each set.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("chance",)

    @property
    def per_set(self) -> tuple[str, ...]:
        return ("acc",)

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="Accuracy on sets of perturbed images; in a shuffled set, each image carries the "
            "perturbation of another.",
            units={f"{name}_acc": PERCENT for name in sets},
        )

    def check(self, names: Iterable[str]) -> None:
        if not tuple(names):
            raise InputError(
                f"the probe {self.kind!r} compares sets of images, and was given none: "
                "write sets: {clean: {poison: clean}, shuffled: {shuffled: true}}"
            )

    def run(self, subject: Subject) -> Finding:
        accuracies = {
            f"{name}_acc": accuracy(subject.model, images, subject.device)
            for name, images in subject.sets.items()
        }
        return Finding({"chance": 1 / subject.test.num_classes, **accuracies})
