"""Probes: what they are given, what they find, and the run of a probe on a trial.

A probe changes nothing about a training, so it is not part of a trial's key.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from trainers.flops import Flops, Work, tested
from trainers.images import Extent, Images
from trainers.probe_view import ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError, Plugin

Row = dict[str, float]
Watch = Callable[[nn.Module, Row], Row]


@dataclass(frozen=True)
class Finding:
    """What a probe found, as JSON types, by name: `metrics`, single numbers (shares in [0, 1]); `curves`, one
    number per epoch; `fields`, the data for its picture."""

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The input of a probe. `model` is the trained network, on `device`, in eval mode, with weights that
    require no gradient, without a defense's purification of inputs; `untrained()` is such a network with
    random weights, whatever the training began from. `train` are the images that it was trained on, as its
    defense prepared them, `test` those that it was tested on, and `sets` the probe's own, by name and on any
    device. `watched` holds the row that the probe's `watch` returned for each epoch."""

    model: nn.Module
    untrained: Callable[[], nn.Module]
    spec: TrainSpec
    train: Images
    test: Images
    sets: Mapping[str, Images]
    history: Sequence[Row]
    watched: Sequence[Row]
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Examined:
    """What a plan knows of the input of a probe: the recipe, the operations of its network for one image, and
    the extents of the images. `test` are those that it is tested on."""

    spec: TrainSpec
    network: Flops
    train: Extent
    test: Extent
    sets: Mapping[str, Extent]


class Probe(Plugin, family="probe", package="trainers.probes"):
    """A measurement on a trained network. It leaves the network, the images and all random generators
    unchanged."""

    needs: ClassVar[tuple[str, ...]] = ()  # names of the sets that it requires; it accepts others
    watches: ClassVar[bool] = False  # whether it needs every epoch, not only the final weights

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that it always finds, without those of each set (see `per_set`)."""
        return ()

    @property
    def per_set(self) -> tuple[str, ...]:
        """Suffixes of the metrics that it finds for each set: with a set `em`, `acc` gives the metric
        `em_acc`."""
        return ()

    def view(self, sets: Sequence[str]) -> ProbeView:
        """How reports show its findings, with sets of these names. By default all curves, no units and no
        picture."""
        return ProbeView()

    def work(self, examined: Examined) -> Work:
        """Its cost; by default a forward pass of the test images and of each set."""
        sizes = (examined.test.images, *(images.images for images in examined.sets.values()))
        return sum((tested(size, examined.network) for size in sizes), Work())

    def watch(self, initial: nn.Module, test: Images, device: torch.device) -> Watch:
        """A function that is called after every epoch with the network and the epoch's row, and returns the
        row to keep. It must leave the network in the mode that it finds it in. Only called if the probe
        `watches`."""
        return lambda model, row: {}

    def check(self, names: Iterable[str]) -> None:
        """InputError if a probe with these settings cannot work with sets of these names."""
        given = tuple(names)
        if missing := [name for name in self.needs if name not in given]:
            raise InputError(
                f"the probe {self.kind!r} needs a set {missing[0]!r}: "
                f"write sets: {{{missing[0]}: {{poison: ...}}}}"
            )

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        """InputError if it cannot run on a training of `spec` with images of these extents. Called before the
        training. `test` is the extent of the test images used."""

    def check_images(self, train: Images, sets: Mapping[str, Images]) -> None:
        """InputError if it cannot compare these training images and sets; for checks that need pixels or
        labels."""

    @abstractmethod
    def run(self, subject: Subject) -> Finding:
        """Run the probe. It is called under the autocast of the training; code that needs float32 disables
        it. InputError if the sets do not fit."""


@dataclass(frozen=True)
class ProbeRun:
    """A probe to run, with the name of its findings and its sets of images."""

    name: str
    probe: Probe
    sets: Mapping[str, Images] = field(default_factory=dict)


def metrics_of(probe: Probe, set_names: Iterable[str]) -> tuple[str, ...]:
    """The names of the metrics that a probe with these sets always finds."""
    return probe.metrics + tuple(f"{name}_{ending}" for name in set_names for ending in probe.per_set)


def check_probes(probe_runs: Sequence[ProbeRun], like: Images) -> None:
    """InputError if two runs have the same name, or if sets are missing or differ from `like` in shape or
    classes. Called before the training."""
    names = [run.name for run in probe_runs]
    if len(set(names)) < len(names):
        raise InputError(f"two probes have the same name: {', '.join(names)}")
    for run in probe_runs:
        run.probe.check(run.sets)
        found = metrics_of(run.probe, run.sets)
        if twice := [name for name in found if found.count(name) > 1]:
            raise InputError(
                f"probe {run.name!r}: two of its metrics would be {twice[0]!r}; give a set another name"
            )
        for name, images in run.sets.items():
            if (images.shape, images.num_classes) != (like.shape, like.num_classes):
                raise InputError(
                    f"probe {run.name!r}: the set {name!r} is of {images.shape} in {images.num_classes} "
                    f"classes, the network of {like.shape} in {like.num_classes}; they must agree"
                )


def check_probe_inputs(probe_runs: Sequence[ProbeRun], spec: TrainSpec, train: Images, test: Images) -> None:
    """InputError if a probe cannot run on a training of `spec` with these training and test images. Called
    before the training."""
    for run in probe_runs:
        sets = {name: images.extent for name, images in run.sets.items()}
        run.probe.check_extents(spec, train.extent, test.extent, sets)
        run.probe.check_images(train, run.sets)
