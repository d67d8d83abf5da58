"""The JSON records in a store: the type of each, and its only reader.

A record may only name the files that a data set or an import has, so it cannot point outside its folder.
Imports nothing heavy.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, StringConstraints, with_config
from typing_extensions import TypedDict

from trainers.stored import MB, DamagedError, JsonFile

LAYOUT = 3  # of a data set's files. 2: one record batch; 3: perturbations beside the images
IMPORT_FILE = "perturbation.arrow"
RECORD = "record.json"
MOST = 2**63 - 1

Text = Annotated[str, StringConstraints(max_length=100_000)]
Key = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
DataSetName = Annotated[
    str, StringConstraints(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*-[0-9a-f]{16}$", max_length=255)
]
DataSetFile = Annotated[str, StringConstraints(pattern=r"^(data|perturbation-[0-9]{1,4})\.arrow$")]
Count = Annotated[int, Field(ge=0, le=MOST)]
Side = Annotated[int, Field(ge=1, le=2**20)]
Shape = Annotated[list[Side], Field(min_length=3, max_length=3)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]
Seconds = Annotated[FiniteFloat, Field(ge=0, le=1e12)]
more = with_config(ConfigDict(extra="allow"))  # allow fields that only people read


class FileStamp(TypedDict):
    """Digest, size and modification time of a file; if the time differs, the digest is checked again."""

    sha256: Sha256
    bytes: Count
    mtime_ns: NotRequired[Count]


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time has a time zone")
    return text


Time = Annotated[Text, AfterValidator(_time)]


@more
class PlatformName(TypedDict):
    """The numerical platform, as far as reports compare it; older records have none."""

    name: Text
    cpu: NotRequired[Text | None]


@more
class Environment(TypedDict, total=False):
    """Where, when and with which software something was computed."""

    time: Time
    host: Text
    python: Text
    commit: Text | None
    versions: dict[Text, Text]


@more
class Kind(TypedDict):
    """A source or a poison: its kind and its settings."""

    kind: Text


@more
class SpecRecord(TypedDict):
    """The spec of a data set, as far as it is displayed."""

    source: Kind
    split: Literal["train", "test"]
    poison: Annotated[list[Kind], Field(min_length=1)]
    limit: NotRequired[Count | None]
    ratio: NotRequired[FiniteFloat]
    crafted_on: NotRequired[Kind | None]
    shuffled: NotRequired[bool]
    seed: NotRequired[int]


class Skipped(TypedDict):
    """Files of a source that are not read: the reason, their number, and the first few names."""

    reason: Text
    count: Count
    examples: list[Text]


@more
class Spread(TypedDict):
    """The distribution of the size of changes."""

    mean: FiniteFloat
    p5: FiniteFloat
    p50: FiniteFloat
    p95: FiniteFloat
    max: FiniteFloat


@more
class Low(TypedDict):
    """The similarity of changed images to their originals, and how many were compared."""

    mean: FiniteFloat
    min: FiniteFloat
    over: Count


@more
class Change(TypedDict):
    """What a poison changed; see `poisons.exchange.card.Tally`."""

    images: Count
    changed: Annotated[FiniteFloat, Field(ge=0, le=1)]
    L0: Spread
    L2: Spread
    Linf: Spread
    psnr: Low | None
    ssim: Low | None


@more
class DataRecord(TypedDict):
    """`data/<name>/record.json`: the record of a data set; without it there is no data set."""

    key: Key
    spec: SpecRecord
    parents: list[DataSetName]
    layout: Count
    files: dict[DataSetFile, FileStamp]
    images: Annotated[int, Field(ge=1, le=MOST)]
    shape: Shape
    num_classes: Annotated[int, Field(ge=1, le=2**31)]
    facts: NotRequired[dict[Text, dict[str, Any]]]
    class_names: NotRequired[list[Text]]
    skipped: NotRequired[list[Skipped]]
    notes: NotRequired[list[Text]]
    warnings: NotRequired[list[Text]]
    seconds: NotRequired[Seconds]
    device: NotRequired[Text]
    change: NotRequired[Change | None]
    environment: NotRequired[Environment]
    platform: NotRequired[PlatformName]


@more
class ImportRecord(TypedDict):
    """`imports/<fingerprint>/record.json`: the record of an imported perturbation."""

    file: FileStamp
    per: NotRequired[Text]
    labels_sha256: NotRequired[Text]


@more
class StoreRecord(TypedDict):
    """`store.json`: marks a folder as a store."""

    format: int


@more
class OfLayout(TypedDict):
    """The field that every version of a data set's record has."""

    layout: int


DATA = JsonFile[dict[str, Any]](DataRecord, limit=64 * MB)
IMPORT = JsonFile[dict[str, Any]](ImportRecord, limit=64 * MB)
STAMP = JsonFile[dict[str, Any]](FileStamp)
STORE = JsonFile[dict[str, Any]](StoreRecord)
ANY_LAYOUT = JsonFile[dict[str, Any]](OfLayout, limit=64 * MB)


def data_record(name: str, data: bytes) -> dict[str, Any] | None:
    """The record of the data set `name` parsed from these bytes; None if an older version wrote it in another
    layout. Raises DamagedError, also for the record of another data set."""
    if ANY_LAYOUT.read(data)["layout"] != LAYOUT:
        return None
    record = DATA.read(data)
    if "data.arrow" not in record["files"]:
        raise DamagedError("files: data.arrow is not among them")
    if record["key"] != name.rpartition("-")[2]:
        raise DamagedError(f"it belongs to the data set {record['key']}")
    return record


def folder_record(name: str, data: bytes) -> dict[str, Any] | None:
    """The record of the folder `data/<name>` or `imports/<fingerprint>`. Raises DamagedError."""
    kind, _, last = name.partition("/")
    return data_record(last, data) if kind == "data" else IMPORT.read(data)


def files_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The stamps of the files beside a record, by name: a data set has several, an import has one."""
    return dict(record["files"]) if "files" in record else {IMPORT_FILE: record["file"]}
