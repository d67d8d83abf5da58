"""The looks of a sweep at its trials: from what its file says to data sets, keys and names of metrics.
Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.planning.cells import digest
from orchestrator.planning.spec import LookSpec
from orchestrator.planning.sweep_file import set_path
from poisons import DataSpec
from poisons.sources.base import Extent, Source
from trainers import InputError
from trainers.probe import Probe, metrics_of
from trainers.spec import identity, plain

CLEAN = "clean"  # a set that a probe needs and is not given: the trial's own images without the poison
Pin = Callable[[Source], Source]
Measure = Callable[[Source], Extent | None]


@dataclass(frozen=True)
class PlannedLook:
    """A look at one trial: a probe under a name, and the data set behind each of its sets."""

    name: str
    probe: Probe
    sets: Mapping[str, DataSpec]

    @cached_property
    def key(self) -> str:
        """What names its finding among those of the trial. Its own name is not in it."""
        return digest([identity(self.probe), {name: spec.key for name, spec in self.sets.items()}])

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for a worker and for the record of what it found."""
        sets = {name: plain(spec) for name, spec in self.sets.items()}
        return {"name": self.name, "probe": plain(self.probe), "sets": sets}

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> PlannedLook:
        """A look as `told` tells it."""
        probe = LookSpec.parse({"name": told["name"], "probe": told["probe"]}, "look").probe
        sets = {name: DataSpec.parse(spec, f"look: {name}") for name, spec in told["sets"].items()}
        return cls(told["name"], probe, sets)


def metrics_found(spec: LookSpec) -> tuple[str, ...]:
    """The names of the numbers that a look finds for certain, as reports know them: `distance/relative`."""
    sets = dict.fromkeys((*spec.sets, *(name for name in spec.probe.needs if name == CLEAN)))
    return tuple(f"{spec.name}/{metric}" for metric in metrics_of(spec.probe, sets))


class Looks:
    """What a sweep looks at, trial by trial; trials of one data set share their looks. InputError, beginning
    with `where`, for two looks of one name."""

    def __init__(self, specs: Sequence[LookSpec], where: str, pin: Pin, measure: Measure) -> None:
        """`pin` fills in a source's fingerprint, `measure` says what images a source has, as far as
        that is known."""
        self.specs, self.where, self.pin, self.measure = specs, where, pin, measure
        self._known: dict[str, tuple[PlannedLook, ...]] = {}
        names = [spec.name for spec in specs]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(
                    f"{where}: probes.{i}: a look at {name!r} is there already; give this one a name of its "
                    f"own, such as name: {name}-{i + 1}"
                )

    def at(self, data: DataSpec) -> tuple[PlannedLook, ...]:
        """The looks at a trial that is trained on `data`, whose source is pinned. InputError, naming
        `probes.0.sets.em`, for a set that is no data set or holds other images, and for a set that is
        lacking."""
        if not self.specs:
            return ()
        if data.key not in self._known:
            self._known[data.key] = tuple(self._look(i, spec, data) for i, spec in enumerate(self.specs))
        return self._known[data.key]

    def _look(self, i: int, spec: LookSpec, data: DataSpec) -> PlannedLook:
        where = f"{self.where}: probes.{i}"
        given = {n: self._set(data, changes, f"{where}.sets.{n}") for n, changes in spec.sets.items()}
        if CLEAN in spec.probe.needs and CLEAN not in given:
            given = {CLEAN: data.clean} | given
        try:
            spec.probe.check(given)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return PlannedLook(spec.name, spec.probe, given)

    def _set(self, data: DataSpec, changes: Mapping[str, Any], where: str) -> DataSpec:
        """The trial's own data set with these fields of `data` changed."""
        told = plain(data)
        for path, value in changes.items():
            field = path.partition(".")[0]
            if field in ("source", "crafted_on") and isinstance(told.get(field), dict):
                told[field].pop("fingerprint", None)  # it is that of other images
            set_path(told, path, copy.deepcopy(value), where)
        spec = DataSpec.parse(told, where).pinned(self.pin)
        spec = spec.clean if spec.clean.poison == spec.poison else spec  # of clean images there is one draw
        if spec.source != data.source:
            self._check_alike(spec.source, data.source, where)
        return spec

    def _check_alike(self, source: Source, own: Source, where: str) -> None:
        found, wanted = self.measure(source), self.measure(own)
        if found is None or wanted is None:
            return  # it is looked into again before the training
        if (found.shape, found.num_classes) != (wanted.shape, wanted.num_classes):
            raise InputError(
                f"{where}: these images are {found.shape} in {found.num_classes} classes, those of the trial "
                f"{wanted.shape} in {wanted.num_classes}; a look takes images of the same shape and classes"
            )
