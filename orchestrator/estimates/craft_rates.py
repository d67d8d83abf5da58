"""How long data sets take: learned from those in a store, or else estimated from the computation that
crafting needs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.estimates.rates import Rates
from orchestrator.storage.stores import storage_of
from poisons import DataSpec, Poison, Store
from poisons.sources.base import Extent
from poisons.store.store import known
from trainers.flops import Work
from trainers.restoration import Restoration

LEARN = 300  # most records that are read
VALUE_SECONDS = 5e-8  # to read, change and write one pixel value, if nothing is known
SOURCE_SECONDS = 3.0  # to import the libraries that read a source in a new process, in results/*.json
Group = tuple[str, ...]


@dataclass(frozen=True)
class CraftRates:
    """Seconds per pixel value of data sets, by group. The most specific group that is known counts: this
    poison, or restoration, on this kind of device; those of its kind there; clean images of a kind of
    source; any perturbation that is only applied."""

    groups: Mapping[Group, float]

    @classmethod
    def learned(cls, store: Store) -> CraftRates:
        """From the records of the data sets in a store; None if there are none."""
        storage = storage_of(store)
        names = [f"data/{name}/record.json" for name in storage.names("data")[:LEARN]]
        found: dict[Group, list[float]] = defaultdict(list)
        for name, data in storage.read_all(names).items():
            for group, seconds in _seconds_by_group(name, data):
                found[group].append(seconds)
        return cls({group: statistics.median(seconds) for group, seconds in found.items()})

    def seconds(self, spec: DataSpec, extent: Extent, rates: Rates, *, reused: bool = False) -> float:
        """The time it takes to make a data set once the ones that it is made from are there; `reused` if its
        network was trained for another one."""
        values = extent.images * math.prod(extent.shape)
        computing, training = _computing(spec, extent, rates)
        opened = 0.0 if spec.parents else SOURCE_SECONDS
        estimated = opened + values * VALUE_SECONDS + computing
        groups = (group for group in _groups(spec, rates.device) if group in self.groups)
        whole = next((values * self.groups[group] for group in groups), estimated)
        return whole * (1 - training / estimated) if reused and training else whole


def _computing(spec: DataSpec, extent: Extent, rates: Rates) -> tuple[float, float]:
    """The time to craft a data set's poison, or to restore its images; and the part of it in which a network
    is trained that others can use."""
    method = _method(spec)
    if method is None:
        return 0.0, 0.0

    def seconds(of: Callable[..., Work]) -> float:
        return rates.seconds(of(extent.images, shape=extent.shape, num_classes=extent.num_classes))

    try:
        return seconds(method.work), seconds(method.shared_work)
    except Exception:  # noqa: BLE001  (a library may raise anything, and a cost is worth no failure)
        return 0.0, 0.0


def _method(spec: DataSpec) -> Poison | Restoration | None:
    """What computes a data set: its restoration, or the poison that is crafted for it."""
    return spec.restoration or (spec.poison[0] if spec.crafts else None)


def _seconds_by_group(name: str, data: bytes | None) -> Iterator[tuple[Group, float]]:
    """Seconds per pixel value according to a record, for each of its groups."""
    try:
        if (record := known(name.split("/")[1], data)) is None:
            return
        spec = DataSpec.model_validate(record["spec"])
        method = _method(spec)
        if method is not None and record["facts"][method.kind].get("reused"):
            return  # another data set paid for its network
        values = record["images"] * math.prod(record["shape"])
        seconds = record["seconds"] / values
        groups = _groups(spec, record["device"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return  # damaged, or from an older opsctl
    yield from ((group, seconds) for group in groups)


def _groups(spec: DataSpec, device: str) -> tuple[Group, ...]:
    if not spec.parents:
        return (("clean", spec.source.kind), ("clean",))
    if (restoration := spec.restoration) is not None:
        where = "cpu" if device.startswith("cpu") else "gpu"
        return (("restored", where, restoration.kind, restoration.key), ("restored", where, restoration.kind))
    if not spec.crafts:
        return (("applied",),)
    poison = spec.poison[0]
    where = "cpu" if device.startswith("cpu") or not poison.wants_gpu else "gpu"
    return (("crafted", where, poison.kind, poison.key), ("crafted", where, poison.kind))
