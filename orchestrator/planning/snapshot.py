"""A snapshot of a planned sweep: its texts, its axes, and the key of every trial. It is kept in storage
whenever a sweep is planned, so that `status` and `report` need not plan it.

Imports nothing heavy, so that these are instant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from orchestrator.planning.trial_budget import Quota
from orchestrator.storage.records import Key, Seal, check_seal, sealed
from orchestrator.storage.storage import Storage
from poisons.records import Count, Text
from trainers.probe_view import PERCENT, ProbeView, Unit
from trainers.stored import MB, DamagedError, JsonFile

FORMAT = 6  # of the file; other formats are not read
SUMMARY = ("mean", "worst")  # the columns that a summary adds to a table
METRIC = "metric"  # the name of the axis that a report with several metrics has besides the grid's
OWN = ("train/", "test/")  # metrics of a trial itself
CHOOSES = ("run.scheduler", "run.search", "run.num_samples", "run.mode")  # determine which trials run


@dataclass(frozen=True)
class Entry:
    """One trial of a snapshot: its key, the label of its value on each axis, and the key of each probe by
    the probe's name."""

    key: str
    labels: dict[str, str]
    probe_keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`data.poison=ops, seed=0`"""
        return ", ".join(f"{axis}={label}" for axis, label in self.labels.items())


class ShownProbe(TypedDict):
    """A probe, for reports: the metrics that it always reports, such as `distance/relative`, and
    how they show its findings."""

    metrics: list[Text]
    view: ProbeView


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A sweep as it was last planned.

    `stops`: its scheduler may prune trials, and pruned trials are not missing. `report` is the sweep's report
    section without metric and axes (metrics, reference, compare, claims), as JSON. `quota` limits a search
    that tries only some cells. `probes` is by the probe's name.
    """

    name: str
    question: str
    metric: str
    row_axes: tuple[str, ...]
    column_axis: str | None
    stops: bool
    entries: tuple[Entry, ...]
    best: Literal["max", "min"] | None = None  # of a search: the direction of the metric
    report: Mapping[str, Any] = field(default_factory=dict)
    quota: Quota | None = None
    probes: Mapping[str, ShownProbe] = field(default_factory=dict)

    def unit(self, metric: str) -> Unit:
        """The unit of a metric of its trials, or of one of its probes: `distance/relative`."""
        begin, _, name = metric.partition("/")
        declared = self.probes[begin]["view"].get("units", {}) if begin in self.probes else {}
        is_accuracy = metric.startswith(OWN) and metric.endswith("acc")
        return declared.get(name, PERCENT if is_accuracy else "")

    def missing(self, ended: Set[str], storage: Storage) -> int:
        """How many trials are still to run when those with these keys have ended; for a guided search, at
        most. Raises OSError."""
        if self.quota is None:
            return len(self.entries) - len(ended)
        return self.quota.bound(ended, self.quota.begun(storage)).most

    def keep(self, storage: Storage, version: str) -> None:
        """Store it as the snapshot of this version of the sweep. Raises OSError."""
        axes = list(self.entries[0].labels) if self.entries else []
        probe_names = list(self.entries[0].probe_keys) if self.entries else []
        record = {name: value for name, value in vars(self).items() if name != "entries"} | {
            "axes": axes,
            "probe_names": probe_names,
            "trials": [[e.key, *e.labels.values(), *e.probe_keys.values()] for e in self.entries],
            "quota": None if self.quota is None else asdict(self.quota),
        }
        data = json.dumps(sealed({"format": FORMAT, **record})).encode()
        if storage.read(_place(version)) != data:
            storage.write(_place(version), data)


class ClaimRecord(TypedDict):
    """A claim of a sweep, in a snapshot."""

    says: Text
    lower: dict[Text, Text] | FiniteFloat
    higher: dict[Text, Text] | FiniteFloat
    where: dict[Text, list[Text]]
    margin: FiniteFloat


class ReportRecord(TypedDict):
    """The report section of a sweep without metric and axes, in a snapshot."""

    metrics: dict[Text, Text]
    reference: Text | None
    compare: list[Annotated[list[Text], Field(min_length=2, max_length=2)]]
    claims: list[ClaimRecord]
    summary: NotRequired[list[Text]]


class QuotaRecord(TypedDict):
    """A `Quota`, in a snapshot."""

    search: Key
    most: Count
    cells: dict[Key, Text]


class SnapshotRecord(TypedDict):
    """`sweeps/<version>.json`: a snapshot. A row of `trials` has a key, a label for each of the `axes`,
    and a key for each of the `probe_names`."""

    format: Literal[6]
    name: Text
    question: Text
    metric: Text
    row_axes: list[Text]
    column_axis: Text | None
    stops: bool
    best: Literal["max", "min"] | None
    report: ReportRecord
    quota: QuotaRecord | None
    probes: dict[Text, ShownProbe]
    axes: list[Text]
    probe_names: list[Text]
    trials: Annotated[list[list[Text]], Field(min_length=1)]
    digest: Seal
    digests: dict[str, Seal]


SNAPSHOT = JsonFile[SnapshotRecord](SnapshotRecord, limit=256 * MB)


def kept_snapshot(storage: Storage, version: str) -> Snapshot | None:
    """The snapshot of this version of a sweep, or None if there is none that can be used."""
    data = storage.read(_place(version))
    try:
        return None if data is None else _snapshot(SNAPSHOT.read(data))
    except DamagedError:
        return None  # damaged, or of another version: it is written again when the sweep is planned


def _snapshot(record: SnapshotRecord) -> Snapshot:
    """Raises DamagedError for a snapshot that was changed, or whose trials do not match its axes."""
    check_seal(record)
    axes, probe_names = record["axes"], record["probe_names"]
    width = 1 + len(axes) + len(probe_names)
    if any(len(trial) != width for trial in record["trials"]) or len({*axes, *probe_names}) < width - 1:
        raise DamagedError("its trials do not have the axes and probes that it names")
    if not {*record["row_axes"], *filter(None, [record["column_axis"]])} <= {*axes, METRIC}:
        raise DamagedError("its rows and columns are none of its axes")
    return Snapshot(
        name=record["name"],
        question=record["question"],
        metric=record["metric"],
        row_axes=tuple(record["row_axes"]),
        column_axis=record["column_axis"],
        stops=record["stops"],
        entries=tuple(_entry(axes, probe_names, *trial) for trial in record["trials"]),
        best=record["best"],
        report=record["report"],
        quota=Quota(**record["quota"]) if record["quota"] else None,
        probes=record["probes"],
    )


def version_of(file: Path, settings: Sequence[str] = ()) -> str | None:
    """An id of the version of a sweep, `<text of the file>-<--set options>`; None if the file cannot be
    read. Settings under `run`, such as `run.max_concurrent=2`, do not change it."""
    try:
        text = file.read_bytes()
    except OSError:
        return None
    chosen = [
        setting for setting in settings if not setting.startswith("run.") or setting.startswith(CHOOSES)
    ]
    return "-".join([_digest(text), *([_digest(json.dumps(chosen).encode())] if chosen else [])])


def differs(one: str, other: str) -> str | None:
    """How two versions of a sweep differ, in words; None if they are equal."""
    if one == other:
        return None
    same_text = one.partition("-")[0] == other.partition("-")[0]
    return "with other --set options" if same_text else "with another text of the sweep file"


def _entry(axes: list[str], probe_names: list[str], key: str, *rest: str) -> Entry:
    """A trial from its row: its key, its labels, the keys of its probes."""
    labels, keys = rest[: len(axes)], rest[len(axes) :]
    return Entry(key, dict(zip(axes, labels, strict=True)), dict(zip(probe_names, keys, strict=True)))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _place(version: str) -> str:
    return f"sweeps/{version}.json"


def lack(count: int, probe: str) -> str:
    """`1 lacks distance`, `12 lack distance`"""
    return f"{count} lack{'s' if count == 1 else ''} {probe}"
