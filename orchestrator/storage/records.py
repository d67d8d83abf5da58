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
Row = dict[str, FiniteFloat]  # the metrics of an epoch


@more
class DataSet(TypedDict):
    """The bytes of a data set that a trial read, and where they were computed."""

    sha256: NotRequired[Text | None]
    platform: NotRequired[Text | None]


@more
class Result(TypedDict):
    """`trials/<key>/result.json`: a trial is done. Its history is in `history-<digest>.json`."""

    key: NotRequired[Key]  # the ledger adds it
    metrics: Metrics
    spec: NotRequired[dict[str, Any]]
    per_class_acc: NotRequired[Annotated[list[FiniteFloat | None], Field(min_length=1)]]
    warnings: NotRequired[list[Text]]
    needs: NotRequired[list[DataSetName]]
    seconds: NotRequired[Seconds]
    device: NotRequired[Text]
    precision: NotRequired[Text]
    precision_fallback: NotRequired[Text | None]
    threads: NotRequired[Count]
    parameters: NotRequired[Count]
    platform: NotRequired[PlatformName]
    platforms_before: NotRequired[list[PlatformName]]
    data_sets: NotRequired[dict[DataSetName, DataSet]]
    environment: NotRequired[Environment]
    history: NotRequired[list[Row]]
    digest: NotRequired[Seal]
    digests: NotRequired[dict[str, Seal]]


@more
class Finding(TypedDict):
    """`trials/<key>/look-<key>.json`: what a probe found. Its curves and fields are in
    `curves-<key>-<digest>.json`."""

    key: NotRequired[Key]  # the ledger adds it
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


class Long(TypedDict, total=False):
    """The long fields of a result or a finding, in a file beside it."""

    history: list[Row]
    curves: dict[str, list[FiniteFloat]]
    fields: dict[str, Any]


@more
class Failure(TypedDict):
    """`trials/<key>/failure.json`: why a trial is not done."""

    key: NotRequired[Key]  # the ledger adds it
    error: Text
    kind: NotRequired[Text]
    traceback: NotRequired[object]
    attempts: Count
    needs: NotRequired[list[DataSetName]]
    history: NotRequired[list[Row]]


@more
class Stopped(TypedDict):
    """`trials/<key>/stopped.json`: a scheduler pruned the trial."""

    key: NotRequired[Key]  # the ledger adds it
    epoch: NotRequired[Count]
    metric: NotRequired[Text]
    value: NotRequired[FiniteFloat]
    scheduler: NotRequired[object]
    sweep: NotRequired[object]
    history: NotRequired[list[Row]]


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
    starts: NotRequired[list[Key]]  # trials whose weights others of the sweep start from
    outline: NotRequired[Text | None]


RESULT = JsonFile[Result](Result, limit=64 * MB)
FINDING = JsonFile[Finding](Finding, limit=128 * MB)
LONG = JsonFile[Long](Long, limit=128 * MB)
FAILURE = JsonFile[Failure](Failure, limit=64 * MB)
STOPPED = JsonFile[Stopped](Stopped, limit=64 * MB)
HEARTBEAT = JsonFile[Heartbeat](Heartbeat, limit=16 * MB)


def sealed(record: Mapping[str, Any], *, long: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A record with digests that reveal damage: one for each of its `long` fields, which are not part of it,
    and one over all of its own fields together with these."""
    whole = {**record, "digests": {name: digest_of(value) for name, value in (long or {}).items()}}
    return {**whole, "digest": digest_of(whole)}


def check_seal(record: Mapping[str, Any], *, long: Collection[str] = ()) -> None:
    """Raises DamagedError unless a record is as it was `sealed`. Its `long` fields, if it has any, are not
    looked at."""
    rest = {name: value for name, value in record.items() if name not in ("digest", *long)}
    if record.get("digest") != digest_of(rest) or "digests" not in record:
        raise DamagedError("its digest is not that of its content")


def check_long(digests: Mapping[str, Seal], long: Mapping[str, Any]) -> None:
    """Raises DamagedError unless these are the `long` fields with which a record was `sealed`."""
    for name in sorted(digests.keys() | long.keys()):
        if name not in long or digests.get(name) != digest_of(long[name]):
            raise DamagedError(f"{name}: the digest is not that of the content")


def digest_of(value: Any) -> str:
    """The SHA-256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
