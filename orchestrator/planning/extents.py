"""The extent of a data set (number, shape and classes of its images): from the store, or from its source."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from typing_extensions import TypedDict

from orchestrator.storage.stores import storage_of
from poisons import DataSpec, Store
from poisons.records import Count, Shape
from poisons.sources.base import Extent
from trainers.stored import DamagedError, JsonFile


class ExtentRecord(TypedDict):
    """`extents/<split>.json`: how many images of what shape there are."""

    images: Count
    shape: Shape
    num_classes: Count


EXTENT = JsonFile[dict[str, Any]](ExtentRecord)
USUAL = {"train": Extent(50_000, (3, 32, 32), 10), "test": Extent(10_000, (3, 32, 32), 10)}  # CIFAR-10


class Extents:
    """Extents of the data sets of a store, each determined once. What a source says is cached in storage,
    under `extents/`."""

    def __init__(self, store: Store) -> None:
        self.store, self.storage = store, storage_of(store)
        self.splits: dict[tuple[object, ...], Extent | None] = {}

    def of(self, spec: DataSpec) -> Extent:
        """The extent of a data set. Never fails: an unknown one is taken to be that of CIFAR-10."""
        return self.known(spec) or _limited(USUAL[spec.split], spec)

    def known(self, spec: DataSpec) -> Extent | None:
        """The extent of a data set, or None if it is not known yet. Never fails."""
        split = (spec.source.kind, spec.source.fingerprint, spec.split)
        if split not in self.splits:
            try:
                self.splits[split] = self._measure(spec.clean.model_copy(update={"limit": None}))
            except Exception:  # noqa: BLE001  (a source may raise anything, and a cost is worth no failure)
                self.splits[split] = None
        whole = self.splits[split]
        return None if whole is None else _limited(whole, spec)

    def _measure(self, whole: DataSpec) -> Extent:
        """The extent of a whole split."""
        if (record := self.store.record(whole)) is not None:
            return _read(record)
        place = f"extents/{whole.source.kind}-{whole.source.fingerprint}-{whole.split}.json".replace(":", "-")
        with suppress(DamagedError):  # damaged: measure again
            if (data := self.storage.read(place)) is not None:
                return _read(EXTENT.read(data))
        found = whole.source.extent(whole.split)
        with suppress(OSError):
            self.storage.write(place, json.dumps(asdict(found)).encode())
        return found


def _limited(whole: Extent, spec: DataSpec) -> Extent:
    return whole if spec.limit is None else replace(whole, images=min(spec.limit, whole.images))


def _read(record: dict[str, Any]) -> Extent:
    """An extent from the record of a data set, or from the cache."""
    c, h, w = record["shape"]
    return Extent(record["images"], (c, h, w), record["num_classes"])
