"""The probes of a sweep, resolved for its trials: from the `probes` section of its file to data sets, keys
and names of metrics. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from orchestrator.planning.cells import digest
from orchestrator.planning.snapshot import ShownProbe
from orchestrator.planning.spec import ProbeSpec
from orchestrator.planning.sweep_file import set_path
from poisons import DataSpec
from poisons.sources.base import Extent, Source
from trainers import InputError
from trainers.probe import Probe, metrics_of
from trainers.spec import identity, plain

CLEAN = "clean"  # the default of a required set: the trial's own images without the poison
Pin = Callable[[Source], Source]
Measure = Callable[[Source], Extent | None]


class PlannedProbeRecord(TypedDict):
    """A `PlannedProbe`, as JSON types."""

    name: str
    probe: dict[str, Any]  # a Probe
    sets: dict[str, dict[str, Any]]  # DataSpecs, by name


@dataclass(frozen=True)
class PlannedProbe:
    """A probe of one trial, under the name of its finding, and the data set behind each of its sets."""

    name: str
    probe: Probe
    sets: Mapping[str, DataSpec]

    @cached_property
    def key(self) -> str:
        """Identifies its finding among those of the trial. Does not depend on its name."""
        return digest([identity(self.probe), {name: spec.key for name, spec in self.sets.items()}])

    def to_json(self) -> PlannedProbeRecord:
        """As JSON types, for a worker."""
        sets = {name: plain(spec) for name, spec in self.sets.items()}
        return {"name": self.name, "probe": plain(self.probe), "sets": sets}

    @classmethod
    def from_json(cls, record: PlannedProbeRecord) -> PlannedProbe:
        """The inverse of `to_json`."""
        probe = ProbeSpec.parse({"name": record["name"], "probe": record["probe"]}, "probe").probe
        sets = {name: DataSpec.parse(spec, f"probe: {name}") for name, spec in record["sets"].items()}
        return cls(record["name"], probe, sets)


def metrics_found(spec: ProbeSpec) -> list[str]:
    """The names of the metrics that a probe always finds, as reports use them: `distance/relative`."""
    return [f"{spec.name}/{metric}" for metric in metrics_of(spec.probe, _set_names(spec))]


def shown_probe(spec: ProbeSpec) -> ShownProbe:
    """The description of a probe for reports."""
    return ShownProbe(metrics=metrics_found(spec), view=spec.probe.view(_set_names(spec)))


def _set_names(spec: ProbeSpec) -> list[str]:
    """The names of its sets, including one that is filled in."""
    return list(dict.fromkeys((*spec.sets, *(name for name in spec.probe.needs if name == CLEAN))))


class SweepProbes:
    """The probes of a sweep. Trials of one data set share their `PlannedProbe`s. InputError, beginning with
    `where`, if two probes have one name."""

    def __init__(self, specs: Sequence[ProbeSpec], where: str, pin: Pin, measure: Measure) -> None:
        """`pin` fills in a source's fingerprint, `measure` says what images a source has, as far as
        that is known."""
        self.specs, self.where, self.pin, self.measure = specs, where, pin, measure
        self._known: dict[str, tuple[PlannedProbe, ...]] = {}
        names = [spec.name for spec in specs]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise InputError(
                    f"{where}: probes.{i}: another probe is named {name!r} already; give this one a name of "
                    f"its own, such as name: {name}-{i + 1}"
                )

    def of(self, data: DataSpec) -> tuple[PlannedProbe, ...]:
        """The probes of a trial that is trained on `data`, whose source is pinned. InputError, naming
        `probes.0.sets.em`, for a set that is no data set or holds other images, and for a missing set."""
        if not self.specs:
            return ()
        if data.key not in self._known:
            self._known[data.key] = tuple(self._planned(i, spec, data) for i, spec in enumerate(self.specs))
        return self._known[data.key]

    def _planned(self, i: int, spec: ProbeSpec, data: DataSpec) -> PlannedProbe:
        where = f"{self.where}: probes.{i}"
        given = {n: self._set(data, changes, f"{where}.sets.{n}") for n, changes in spec.sets.items()}
        if CLEAN in spec.probe.needs and CLEAN not in given:
            given = {CLEAN: data.clean} | given
        try:
            spec.probe.check(given)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return PlannedProbe(spec.name, spec.probe, given)

    def _set(self, data: DataSpec, changes: Mapping[str, Any], where: str) -> DataSpec:
        """The trial's own data set with these fields of `data` changed."""
        fields = plain(data)
        for path, value in changes.items():
            field = path.partition(".")[0]
            if field in ("source", "crafted_on") and isinstance(fields.get(field), dict):
                fields[field].pop("fingerprint", None)  # it belongs to other images
            set_path(fields, path, copy.deepcopy(value), where)
        spec = DataSpec.parse(fields, where).pinned(self.pin)
        if spec.clean.poison == spec.poison:  # clean images do not depend on the seed
            spec = spec.clean
        if spec.source != data.source:
            self._check_alike(spec.source, data.source, where)
        return spec

    def _check_alike(self, source: Source, own: Source, where: str) -> None:
        found, wanted = self.measure(source), self.measure(own)
        if found is None or wanted is None:
            return  # it is checked again before the training
        if (found.shape, found.num_classes) != (wanted.shape, wanted.num_classes):
            raise InputError(
                f"{where}: these images are {found.shape} in {found.num_classes} classes, those of the trial "
                f"{wanted.shape} in {wanted.num_classes}; a probe takes images of the same shape and classes"
            )
