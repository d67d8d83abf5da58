"""A look at a training: a probe, under a name, with the sets of images that it compares; and what it finds.

A look changes nothing about a training, so it is no part of a trial's key.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from trainers.images import Extent, Images
from trainers.recipe import TrainSpec
from trainers.spec import InputError, Plugin

Row = dict[str, float]
Watch = Callable[[nn.Module, Row], Row]


@dataclass(frozen=True)
class Finding:
    """What a probe found, as JSON types: `metrics`, single numbers (shares in [0, 1]) by name; `curves`, one
    number per epoch by name; `fields`, whatever a picture of it is drawn from."""

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What a probe looks at. `model` is the trained network, on `device`, in eval mode and with weights that
    ask for no gradient; `initial()` makes it as it was before the first step; `train` and `test` are the
    images it was trained and tested on, `sets` those that the probe was given by name, wherever they lie;
    `watched` holds what the probe's `watch` said of each epoch."""

    model: nn.Module
    initial: Callable[[], nn.Module]
    spec: TrainSpec
    train: Images
    test: Images
    sets: Mapping[str, Images]
    history: Sequence[Row]
    watched: Sequence[Row]
    seed: int
    device: torch.device


class Probe(Plugin, family="probe", package="trainers.probes"):
    """Something that a trained network shows. It leaves the network, the images and all random generators as
    they were."""

    needs: ClassVar[tuple[str, ...]] = ()  # names of sets that it must be given; others it takes as they come
    watches: ClassVar[bool] = False  # whether it looks at every epoch, so that weights alone are too late

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that it finds for certain, without the sets' own (see `per_set`)."""
        return ()

    @property
    def per_set(self) -> tuple[str, ...]:
        """Endings of the metrics that it finds for each set: of a set `em`, `acc` is the metric `em_acc`."""
        return ()

    def epochs_taken(self, sets: int) -> int:
        """How many epochs of the training its look is about as long as, with so many sets."""
        return 1

    def watch(self, initial: nn.Module, test: Images, device: torch.device) -> Watch:
        """A function that is given the network (in whatever mode; to be left so) and the epoch's row after
        every epoch, and says what is kept of it. Only called if the probe `watches`."""
        return lambda model, row: {}

    def check(self, names: Iterable[str]) -> None:
        """InputError if a probe with these settings cannot do with sets of these names."""
        given = tuple(names)
        if missing := [name for name in self.needs if name not in given]:
            raise InputError(
                f"the probe {self.kind!r} needs a set {missing[0]!r}: "
                f"write sets: {{{missing[0]}: {{poison: ...}}}}"
            )

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        """InputError if it cannot look at a training of `spec` on images of these extents: before the
        training, not after it. `test` are the test images that are looked at."""

    def check_images(self, train: Images, sets: Mapping[str, Images]) -> None:
        """InputError if it cannot compare these training images and sets: what `check_extents` cannot see."""

    @abstractmethod
    def look(self, subject: Subject) -> Finding:
        """What it finds. It is called in the arithmetic of the training (autocast); what has to be float32
        says so. InputError if the sets do not fit."""


@dataclass(frozen=True)
class Look:
    """A probe under the name that its findings go by, with its sets of images."""

    name: str
    probe: Probe
    sets: Mapping[str, Images] = field(default_factory=dict)


def metrics_of(probe: Probe, set_names: Iterable[str]) -> tuple[str, ...]:
    """The names of the metrics that a look with these sets finds for certain."""
    return probe.metrics + tuple(f"{name}_{ending}" for name in set_names for ending in probe.per_set)


def check_looks(looks: Sequence[Look], like: Images) -> None:
    """InputError if two looks are named alike, or one's sets are not what its probe needs, or not of the
    shape and classes of `like`: before a training, not after it."""
    names = [look.name for look in looks]
    if len(set(names)) < len(names):
        raise InputError(f"two looks are named alike: {', '.join(names)}")
    for look in looks:
        look.probe.check(look.sets)
        found = metrics_of(look.probe, look.sets)
        if twice := [name for name in found if found.count(name) > 1]:
            raise InputError(
                f"look {look.name!r}: two of its metrics would be {twice[0]!r}; give a set another name"
            )
        for name, images in look.sets.items():
            if (images.shape, images.num_classes) != (like.shape, like.num_classes):
                raise InputError(
                    f"look {look.name!r}: the set {name!r} is of {images.shape} in {images.num_classes} "
                    f"classes, the network of {like.shape} in {like.num_classes}; they must agree"
                )


def check_prospects(looks: Sequence[Look], spec: TrainSpec, train: Images, test: Images) -> None:
    """InputError if a look cannot be had at a training of `spec` on these images, of which `test` are those
    that it is tested on: before the training, not after it."""
    for look in looks:
        sets = {name: images.extent for name, images in look.sets.items()}
        look.probe.check_extents(spec, train.extent, test.extent, sets)
        look.probe.check_images(train, look.sets)
