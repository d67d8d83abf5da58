"""The JSON files of a store: the type of each file of the ledger and of heartbeats, and its one reader.

A file that its reader refuses is damaged: it counts as missing, and nothing of it is used.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field, FiniteFloat, StringConstraints
from typing_extensions import TypedDict

from poisons.records import Count, DataSetName, Environment, PlatformName, Seconds, Sha256, Text, Time, more
from trainers.stored import MB, DamagedError, JsonFile

Record = dict[str, Any]
ACCURACY = re.compile("(^|[_/])acc$")  # names of metrics that are shares
SEALS = ("digest", "digests")  # fields of a file by which damage is found
Key = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]
Seal = Sha256


def _metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Accuracies are fractions in [0, 1]."""
    for name, value in metrics.items():
        if ACCURACY.search(name) and not 0 <= value <= 1:
            raise ValueError(f"{name[:80]} is an accuracy, so in [0, 1], found {value:g}")
    return metrics


Metrics = Annotated[dict[str, FiniteFloat], AfterValidator(_metrics)]


@more
class DataSet(TypedDict):
    """The bytes of a data set that a trial read, and where they were computed."""

    sha256: NotRequired[Text | None]
    platform: NotRequired[Text | None]


@more
class Result(TypedDict):
    """`trials/<key>/result.json`: a trial is done."""

    key: Key
    metrics: Metrics
    spec: NotRequired[dict[str, Any]]
    warnings: NotRequired[list[Text]]
    needs: NotRequired[list[DataSetName]]
    seconds: NotRequired[Seconds]
    device: NotRequired[Text]
    precision: NotRequired[Text]
    threads: NotRequired[Count]
    platform: NotRequired[PlatformName]
    platforms_before: NotRequired[list[PlatformName]]
    data_sets: NotRequired[dict[DataSetName, DataSet]]
    environment: NotRequired[Environment]
    history: NotRequired[list[dict[str, FiniteFloat]]]
    digest: NotRequired[Seal]
    digests: NotRequired[dict[str, Seal]]


@more
class Probed(TypedDict):
    """`trials/<key>/look-<key>.json`: the finding of a probe."""

    key: Key
    metrics: Metrics
    look: NotRequired[Text]
    probe: NotRequired[dict[str, Any]]
    sets: NotRequired[dict[str, DataSetName]]
    seconds: NotRequired[Seconds]
    platform: NotRequired[PlatformName]
    curves: NotRequired[dict[str, list[FiniteFloat]]]
    fields: NotRequired[dict[str, Any]]
    digest: NotRequired[Seal]
    digests: NotRequired[dict[str, Seal]]


@more
class Failure(TypedDict):
    """`trials/<key>/failure.json`: why a trial is not done."""

    key: Key
    error: Text
    kind: NotRequired[Text]
    attempts: Count
    needs: NotRequired[list[DataSetName]]
    history: NotRequired[list[dict[str, FiniteFloat]]]


@more
class Stopped(TypedDict):
    """`trials/<key>/stopped.json`: a scheduler pruned the trial."""

    key: Key
    epoch: NotRequired[Count]
    metric: NotRequired[Text]
    value: NotRequired[FiniteFloat]
    history: NotRequired[list[dict[str, FiniteFloat]]]


LastEpoch = TypedDict(
    "LastEpoch",
    {
        "epoch": NotRequired[FiniteFloat | None],
        "train/acc": NotRequired[FiniteFloat | None],
        "test/clean_acc": NotRequired[FiniteFloat | None],
    },
)


@more
class RunningTrial(LastEpoch):
    """A trial that a driver runs, with the metrics of its last epoch."""

    key: Key
    name: Text
    since: Time
    epochs: Count


@more
class DataSetAtWork(TypedDict):
    """A data set that a driver builds."""

    name: Text
    word: Text


@more
class DriverState(TypedDict, total=False):
    """The progress of a driver; empty before it has begun."""

    total: Count
    done: Count
    failed: Count
    stopped: Count
    waiting: Count
    elsewhere: Count
    resting: Count
    slots: Count
    running: list[RunningTrial]
    building: list[DataSetAtWork]
    faults: dict[str, Count]
    silent: Text


@more
class Heartbeat(TypedDict):
    """`drivers/<id>.json`: a driver is alive."""

    id: Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_.-]{1,200}$")]
    sweep: Text
    host: Text
    machine: Text
    pid: Annotated[int, Field(ge=1, le=2**31 - 1)]
    started: Time
    time: Time
    beat: Count
    state: DriverState
    needs: NotRequired[list[DataSetName]]
    outline: NotRequired[Text | None]


RESULT = JsonFile[Record](Result, limit=64 * MB)
PROBED = JsonFile[Record](Probed, limit=128 * MB)
FAILURE = JsonFile[Record](Failure, limit=64 * MB)
STOPPED = JsonFile[Record](Stopped, limit=64 * MB)
HEARTBEAT = JsonFile[Heartbeat](Heartbeat, limit=16 * MB)


def sealed(record: Mapping[str, Any], *, last: Collection[str]) -> Record:
    """A record with digests that reveal damage: one for each long field (those in `last`, which come last
    in the file), and one over all other fields together with these."""
    short = {name: value for name, value in record.items() if name not in last}
    long = {name: record[name] for name in last if name in record}
    short["digests"] = {name: _digest(value) for name, value in long.items()}
    return {**short, "digest": _digest(short), **long}


def check_seal(record: Mapping[str, Any], *, last: Collection[str], short: bool = False) -> None:
    """Raises DamagedError unless a record with digests is as it was `sealed`. A `short` one lacks its long
    fields."""
    rest = {name: value for name, value in record.items() if name not in ("digest", *last)}
    if record.get("digest") != _digest(rest) or "digests" not in record:
        raise DamagedError("its digest is not that of its content")
    for name in () if short else last:
        if record["digests"].get(name) != (_digest(record[name]) if name in record else None):
            raise DamagedError(f"{name}: the digest is not that of the content")


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
