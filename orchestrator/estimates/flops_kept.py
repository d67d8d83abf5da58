"""Operations of networks, counted once per store and cached under `flops/`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict

from typing_extensions import TypedDict

from orchestrator.storage.storage import Storage
from poisons.records import NotNegative
from poisons.sources.base import Extent
from trainers.families import Architecture
from trainers.flops import Flops, PerPass, network_flops
from trainers.stored import DamagedError, JsonFile

# for a network that cannot be counted: the operations of a ResNet-18
USUAL = Flops(1.1e9, 2.2e9, 1.1e9, values=PerPass(1.8e6, 2.6e6, 1.8e6), kernels=PerPass(70, 180, 90))


class PerPassRecord(TypedDict):
    """A `PerPass`, as JSON."""

    forward: NotNegative
    backward: NotNegative
    inputs: NotNegative


class FlopsRecord(PerPassRecord):
    """`flops/<network>.json`: the operations of a network."""

    values: PerPassRecord
    kernels: PerPassRecord


FLOPS = JsonFile[FlopsRecord](FlopsRecord)


class FlopsKept:
    """The operations of networks, from the cache in storage or else counted."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.known: dict[tuple[object, ...], Flops] = {}

    def of(self, architecture: Architecture, extent: Extent) -> Flops:
        """Operations for one image of this shape. Never fails: a network that cannot be counted gets a
        typical number."""
        name = (architecture.key, extent.shape, extent.num_classes)
        if name not in self.known:
            try:
                self.known[name] = self._count(architecture, extent)
            except Exception:  # noqa: BLE001  (libraries raise what they like, and a cost is worth no failure)
                self.known[name] = USUAL
        return self.known[name]

    def _count(self, architecture: Architecture, extent: Extent) -> Flops:
        size = "x".join(map(str, extent.shape))
        place = f"flops/{architecture.kind}-{architecture.key}-{size}-{extent.num_classes}.json"
        if (known := _read(self.storage.read(place))) is not None:
            return known
        found = network_flops(architecture, shape=extent.shape, num_classes=extent.num_classes)
        with suppress(OSError):
            self.storage.write(place, json.dumps(asdict(found)).encode())
        return found


def _read(data: bytes | None) -> Flops | None:
    """The cached count; None if it is damaged, or lacks values and kernels, and has to be made again."""
    try:
        record = None if data is None else FLOPS.read(data)
    except DamagedError:
        return None
    if record is None:
        return None
    values, kernels = PerPass(**record["values"]), PerPass(**record["kernels"])
    return Flops(record["forward"], record["backward"], record["inputs"], values, kernels)
