"""What a report and a status need of a sweep: its words, its axes, and the key of every trial. It is kept in
the storage whenever a sweep is planned, so that a look at the sweep need not plan it.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from orchestrator.planning.trial_budget import Quota
from orchestrator.storage.records import Key, Seal, check_seal, sealed
from orchestrator.storage.storage import Storage
from poisons.records import Count, Text
from trainers.stored import MB, DamagedError, JsonFile

FORMAT = 5  # of the file; one of another format is not read
METRIC = "metric"  # the name of the axis that a report with several metrics has besides the grid's
CHOOSES = ("run.scheduler", "run.search", "run.num_samples", "run.mode")  # which trials there are, or stay


@dataclass(frozen=True)
class Entry:
    """One trial of a snapshot: its key, the label of its value on each axis, and the key of each look at
    it by the look's name."""

    key: str
    labels: dict[str, str]
    looks: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`data.poison=ops, seed=0`"""
        return ", ".join(f"{axis}={label}" for axis, label in self.labels.items())


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A sweep as it was last planned. `stops`: its scheduler may end trials early, and such a one is not
    missing. `report` is what the sweep says of its report beyond metric and axes (metrics, reference,
    compare, claims), as JSON. `quota` is that of a search which tries only some cells. `probes` has the
    metrics that each probe is certain to find, by the probe's name: `distance/relative`."""

    name: str
    question: str
    metric: str
    row_axes: tuple[str, ...]
    column_axis: str | None
    stops: bool
    entries: tuple[Entry, ...]
    best: Literal["max", "min"] | None = None  # of a search: which end of the metric it looks for
    report: Mapping[str, Any] = field(default_factory=dict)
    quota: Quota | None = None
    probes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def missing(self, ended: Set[str], storage: Storage) -> int:
        """How many trials are yet to run when these (keys) have ended; of a guided search, at most. Raises
        OSError."""
        if self.quota is None:
            return len(self.entries) - len(ended)
        return self.quota.bound(ended, self.quota.begun(storage)).most

    def keep(self, storage: Storage, version: str) -> None:
        """Have it in the storage as that of this version of the sweep. Raises OSError."""
        axes = list(self.entries[0].labels) if self.entries else []
        looks = list(self.entries[0].looks) if self.entries else []
        record = {name: value for name, value in vars(self).items() if name != "entries"} | {
            "axes": axes,
            "looks": looks,
            "trials": [[e.key, *e.labels.values(), *e.looks.values()] for e in self.entries],
            "quota": None if self.quota is None else asdict(self.quota),
        }
        data = json.dumps(sealed({"format": FORMAT, **record}, last=())).encode()
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
    """What a sweep says of its report beyond metric and axes, in a snapshot."""

    metrics: dict[Text, Text]
    reference: Text | None
    compare: list[Annotated[list[Text], Field(min_length=2, max_length=2)]]
    claims: list[ClaimRecord]


class QuotaRecord(TypedDict):
    """A `Quota`, in a snapshot."""

    search: Key
    most: Count
    cells: dict[Key, Text]


class SnapshotRecord(TypedDict):
    """`sweeps/<version>.json`: a snapshot. A row of `trials` has a key, a label for each of the `axes`, and
    a key for each of the `looks`."""

    format: Literal[5]
    name: Text
    question: Text
    metric: Text
    row_axes: list[Text]
    column_axis: Text | None
    stops: bool
    best: Literal["max", "min"] | None
    report: ReportRecord
    quota: QuotaRecord | None
    probes: dict[Text, list[Text]]
    axes: list[Text]
    looks: list[Text]
    trials: Annotated[list[list[Text]], Field(min_length=1)]
    digest: Seal
    digests: dict[str, Seal]


SNAPSHOT = JsonFile[SnapshotRecord](SnapshotRecord, limit=256 * MB)


def kept_snapshot(storage: Storage, version: str) -> Snapshot | None:
    """The snapshot that was kept of this version of a sweep, or None: then plan it."""
    data = storage.read(_place(version))
    try:
        return None if data is None else _snapshot(SNAPSHOT.read(data))
    except DamagedError:
        return None  # or somebody else's: it is kept anew when the sweep is planned


def _snapshot(record: SnapshotRecord) -> Snapshot:
    """Raises DamagedError for a snapshot that was changed, or whose trials do not go with its axes."""
    check_seal(record, last=())
    axes, looks = record["axes"], record["looks"]
    width = 1 + len(axes) + len(looks)
    if any(len(trial) != width for trial in record["trials"]) or len({*axes, *looks}) < width - 1:
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
        entries=tuple(_entry(axes, looks, *trial) for trial in record["trials"]),
        best=record["best"],
        report=record["report"],
        quota=Quota(**record["quota"]) if record["quota"] else None,
        probes={name: tuple(metrics) for name, metrics in record["probes"].items()},
    )


def version_of(file: Path, settings: Sequence[str] = ()) -> str | None:
    """What tells versions of a sweep apart, `<text of the file>-<--set options>`; None if the file cannot be
    read. How a sweep is run, such as `run.max_concurrent=2`, makes no other version of it."""
    try:
        text = file.read_bytes()
    except OSError:
        return None
    chosen = [
        setting for setting in settings if not setting.startswith("run.") or setting.startswith(CHOOSES)
    ]
    return "-".join([_digest(text), *([_digest(json.dumps(chosen).encode())] if chosen else [])])


def differs(one: str, other: str) -> str | None:
    """In what two versions of a sweep differ, in words; None if they are one."""
    if one == other:
        return None
    same_text = one.partition("-")[0] == other.partition("-")[0]
    return "with other --set options" if same_text else "with another text of the sweep file"


def _entry(axes: list[str], looks: list[str], key: str, *rest: str) -> Entry:
    """A trial as it was kept: its key, its labels, the keys of its looks."""
    labels, found = rest[: len(axes)], rest[len(axes) :]
    return Entry(key, dict(zip(axes, labels, strict=True)), dict(zip(looks, found, strict=True)))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _place(version: str) -> str:
    return f"sweeps/{version}.json"


def lack(count: int, probe: str) -> str:
    """`1 lacks distance`, `12 lack distance`"""
    return f"{count} lack{'s' if count == 1 else ''} {probe}"
