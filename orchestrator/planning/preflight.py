"""Checks before anything runs: the trials, probes and data sets of a plan against the images of their
sources, as far as these are known without loading them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache

from orchestrator.planning.probes import PlannedProbe
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec
from poisons.base import Poison
from poisons.data_spec import check_transfer
from poisons.methods.imported import no_import
from poisons.sources.base import Source, Split
from trainers import InputError, TrainSpec
from trainers.families import Attack
from trainers.features import head_of
from trainers.gpu_profile import random_images
from trainers.images import Extent
from trainers.start import Task, begin_from
from trainers.starts.trial import TrialStart, no_weights
from trainers.starts.weights import WeightsFile

Measure = Callable[[Source, Split], Extent | None]


class Preflight:
    """Checks what a plan is going to do. InputError, beginning with `where`, for what cannot work."""

    def __init__(self, where: str, measure: Measure, ledger: Ledger) -> None:
        """`measure` gives the extent of a split of a source, None if it is not known yet; `ledger` says which
        trials have kept weights, and which perturbations were imported."""
        self.where, self.measure = where, measure
        self.kept, self.imported = cache(ledger.kept), cache(ledger.imported)

    def trial(
        self, trial: TrialSpec, probes: Sequence[PlannedProbe], name: str, *, trains: bool = True
    ) -> None:
        """Check the training and its evaluation, if it `trains`, and its probes; `name` is the trial's in
        errors."""
        train = self._extent(trial.data)
        test = self._extent(trial.test_data)
        if train is None or test is None:
            return  # the trial checks it before its first step
        try:
            if trains:
                self._check_held_out(trial)
                self._check_start(trial, train)
                trial.check(train, test)
            for planned in probes:
                extents = {label: self._extent(spec) for label, spec in planned.sets.items()}
                sets = {label: extent for label, extent in extents.items() if extent is not None}
                planned.probe.check_extents(trial.train, train, test, sets)
        except InputError as error:
            raise InputError(f"{self.where}: {name}: {error}") from None

    def data_set(self, spec: DataSpec) -> None:
        """Check the crafting of a data set's poison, or that those crafted on other images fit."""
        clean = self._extent(spec.clean)
        if clean is None:
            return
        try:
            if spec.crafts:
                self._check_imported(spec.poison[0])
                spec.poison[0].check(clean)
            for crafted in spec.crafted:
                if (there := self._extent(crafted)) is not None:
                    check_transfer(there, clean)
        except InputError as error:
            raise InputError(f"{self.where}: the data set {spec.name}: {error}") from None

    def _check_imported(self, poison: Poison) -> None:
        """InputError if the store lacks the perturbation that was imported for it."""
        if poison.imports is not None and poison.imports not in self.imported():
            raise no_import(poison.imports)

    def _check_start(self, trial: TrialSpec, train: Extent) -> None:
        """InputError if the trial that this one starts from left no weights, or a file has those of another
        network."""
        start = trial.train.start
        if isinstance(start, TrialStart) and start.of not in self.kept():
            raise no_weights(start.of)
        if isinstance(start, WeightsFile):
            check_weights_file(trial.train, start, train)

    def _check_held_out(self, trial: TrialSpec) -> None:
        """InputError if the source has not enough other images for the restoration to learn from."""
        restoration = trial.train.defense.restoration
        wanted = None if restoration is None else restoration.clean_images
        whole = self.measure(trial.data.source, "train")
        if restoration is None or wanted is None or wanted.origin != "held_out" or whole is None:
            return
        number, there = wanted.number or 1, whole.images - min(whole.images, trial.data.limit or whole.images)
        if there < number:
            most = whole.images - number
            advice = f"write data.limit {most} or less" if most > 0 else "write a smaller number of them"
            raise InputError(
                f"{restoration.kind} learns from {number} images that are not trained on, and {there} of the "
                f"{whole.images} are left: {advice}, or let it learn from others"
            )

    def _extent(self, spec: DataSpec) -> Extent | None:
        whole = self.measure(spec.source, spec.split)
        if whole is None or spec.limit is None:
            return whole
        return replace(whole, images=min(spec.limit, whole.images))


def check_weights_file(spec: TrainSpec, start: WeightsFile, images: Extent) -> None:
    """InputError if the weights in the file of `start` are those of another network."""
    one = random_images(1, images.shape, images.num_classes)
    model = spec.network(num_classes=images.num_classes, shape=images.shape, seed=0)
    weights = start.weights(Task(spec.architecture, images.shape, images.num_classes), None)
    begin_from(weights, model, head=head_of(model, one), source=f"start: {start.path}")


def check_ready(trials: Iterable[TrialSpec]) -> None:
    """InputError if this machine lacks what an attack of some trial needs."""
    attacks: dict[str, Attack] = {a.name: a for trial in trials for a in trial.evaluation.attacks}
    for attack in attacks.values():
        attack.check_ready()
