"""How many trials share a GPU: computed from what one of them takes alone, and cached for trials of the
same shape. Pure except for `ShareStore`, which reads and writes storage."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from orchestrator.estimates.rates import slug
from orchestrator.storage.storage import Storage
from orchestrator.storage.trial_spec import TrialSpec
from poisons.records import Count, Text, more
from trainers.flops import Shape
from trainers.spec import identity
from trainers.stored import DamagedError, JsonFile

ROOM = 0.9  # usable part of a GPU's memory; the rest is for fragmentation and higher peaks
OVERHEAD = 600 * 2**20  # bytes of a process besides its tensors: CUDA context, cuBLAS, cuDNN
MOST = 16  # trials on one GPU: each process needs memory, a thread and files on the host
FINE = 10_000  # Ray rounds shares to four decimals: 3 x 0.3333 fit, 3 x 0.3334 do not
ELSEWHERE = frozenset(("epochs", "schedule", "label_smoothing", "clip_norm"))  # do not affect memory


@more
class ShareRecord(TypedDict):
    """`shapes/<shape>-<device>.json`: what a trial of a shape takes of a device."""

    share: Annotated[FiniteFloat, Field(gt=0, le=1)]
    device: NotRequired[Text]
    grown: NotRequired[bool]
    peak_bytes: NotRequired[Count]
    total_bytes: NotRequired[Count]
    busy: NotRequired[FiniteFloat]


SHARE = JsonFile[ShareRecord](ShareRecord)


def share(peak_bytes: int, total_bytes: int, busy: float) -> float:
    """The share of a GPU of `total_bytes` for one trial that reserves `peak_bytes` and, alone, keeps the GPU
    at work for `busy` (in (0, 1]) of the time: 1/k, rounded down to what Ray can tell apart.

    k trials fit into memory, and no more than k take turns to keep the GPU at work: without overlap of
    kernels a further one only makes the others slower.
    """
    if not 0 < busy <= 1:
        raise ValueError(f"busy is a share of time in (0, 1], found {busy}")
    fit = int(ROOM * total_bytes / (peak_bytes + OVERHEAD))
    useful = math.ceil(round(1 / max(busy, 1 / MOST), 6))  # 1/0.1 is 10, however it is rounded
    return FINE // max(1, min(fit, useful)) / FINE


def larger(share: float) -> float:
    """The share to try after a GPU's memory was too small: twice as much, at most all of it."""
    return min(1.0, 2 * share)


def shape_key(trial: TrialSpec, shape: Shape, count: int, num_classes: int) -> str:
    """16 hexadecimal digits that name all that decides a trial's memory: the recipe but for what only moves
    the numbers, the attacks that it is evaluated with, and `count` images of `shape` (C, H, W), as many as
    lie on the device. Trials that differ in seed, epochs, learning rate or poison have one."""
    recipe = {name: value for name, value in trial.train if name not in ELSEWHERE | {"optimizer", "start"}}
    recipe |= {} if trial.train.trains_all else {"layers": "last"}
    optimizer = {name: value for name, value in trial.train.optimizer if name != "lr"}
    identifying = {
        "recipe": identity(recipe),
        "optimizer": [trial.train.optimizer.kind, identity(optimizer)],
        "attacks": identity(trial.evaluation.attacks),
        "images": [count, *shape, num_classes],
    }
    text = json.dumps(identifying, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ShareStore:
    """Measured shares, under `shapes/` in storage, by the shape of a trial and the kind of device. After a
    trial ran out of memory its share only grows."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def recall(self, key: str, device: str) -> ShareRecord | None:
        """The record of a share, or None."""
        data = self.storage.read(_place(key, device))
        try:
            return None if data is None else SHARE.read(data)
        except DamagedError:
            return None  # damaged: measure again

    def device(self) -> str | None:
        """The kind of device with the most records; None if there are none."""
        kinds = Counter(name.removesuffix(".json").partition("-")[2] for name in self.storage.names("shapes"))
        return kinds.most_common(1)[0][0] if kinds else None

    def remember(self, key: str, device: str, measured: Mapping[str, Any]) -> ShareRecord:
        """Store what was `measured`: `share`, and perhaps more (peak_bytes, busy). Returns the new record."""
        before = self.recall(key, device)
        record = SHARE.check({"device": device, **(before or {}), **measured})
        if before is not None and before.get("grown"):
            record["share"] = max(record["share"], before["share"])
        self.storage.write(_place(key, device), json.dumps(record, indent=1).encode())
        return record

    def grow(self, key: str, device: str, share: float) -> float:
        """The share to try after `share` was too small; it is stored."""
        return float(self.remember(key, device, {"share": larger(share), "grown": True})["share"])


def _place(key: str, device: str) -> str:
    return f"shapes/{key}-{slug(device)}.json"
