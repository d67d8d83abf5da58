"""How many images of what shape a data set holds, or will hold: from the store, else from its source."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from typing_extensions import TypedDict

from orchestrator.storage.storage import open_storage
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
    """Extents of the data sets of a store, each looked up once. What a source says is remembered in the
    store, under `extents/`."""

    def __init__(self, store: Store) -> None:
        self.store, self.storage = store, open_storage(store.where)
        self.splits: dict[tuple[object, ...], Extent | None] = {}

    def of(self, spec: DataSpec) -> Extent:
        """The extent of a data set. Never fails: what cannot be known is taken to be as CIFAR-10."""
        return self.known(spec) or _limited(USUAL[spec.split], spec)

    def known(self, spec: DataSpec) -> Extent | None:
        """The extent of a data set, if it can be known now. Never fails."""
        split = (spec.source.kind, spec.source.fingerprint, spec.split)
        if split not in self.splits:
            try:
                self.splits[split] = self._look(spec.clean.model_copy(update={"limit": None}))
            except Exception:  # noqa: BLE001  (a source may raise anything, and a cost is worth no failure)
                self.splits[split] = None
        whole = self.splits[split]
        return None if whole is None else _limited(whole, spec)

    def _look(self, whole: DataSpec) -> Extent:
        """The extent of a whole split."""
        if (record := self.store.record(whole)) is not None:
            return _read(record)
        place = f"extents/{whole.source.kind}-{whole.source.fingerprint}-{whole.split}.json".replace(":", "-")
        with suppress(DamagedError):  # then it is looked up again
            if (told := self.storage.read(place)) is not None:
                return _read(EXTENT.read(told))
        found = whole.source.extent(whole.split)
        with suppress(OSError):
            self.storage.write(place, json.dumps(asdict(found)).encode())
        return found


def _limited(whole: Extent, spec: DataSpec) -> Extent:
    return whole if spec.limit is None else replace(whole, images=min(spec.limit, whole.images))


def _read(told: dict[str, Any]) -> Extent:
    """From a record of a data set, or from what was remembered."""
    c, h, w = told["shape"]
    return Extent(told["images"], (c, h, w), told["num_classes"])
