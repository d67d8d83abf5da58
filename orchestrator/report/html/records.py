"""The types of a page's document, and checks that its parts are consistent. Every document that passes can be
rendered."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, FiniteFloat, StringConstraints
from typing_extensions import TypedDict

from poisons.records import Count, Seconds, Text, Time, more
from trainers.probe_view import ProbeView, Unit

POINTS = 80  # most points of a curve: a panel is 320 pixels wide
LARGEST = 1e100  # largest magnitude of a number on a page: the limit of a figure's axes
DATA_URI = r"^data:image/(png|webp);base64,[A-Za-z0-9+/=]*$"
FIXED = ("seconds", "time", "device", "versions")  # fields that every finished trial must have

Number = Annotated[FiniteFloat, Field(ge=-LARGEST, le=LARGEST)]
Picture = Annotated[str, StringConstraints(pattern=DATA_URI, max_length=64 * 10**6)]
Pair = Annotated[list[Text], Field(min_length=2, max_length=2)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Position = Annotated[list[Count], Field(min_length=2, max_length=2)]
Curves = dict[str, list[Number | None]]


State = Literal["done", "failed", "stopped", "missing"]


class Absent(TypedDict):
    """A trial without a value for its cell."""

    why: Text
    probe: NotRequired[Text | None]


@more
class Published(TypedDict):
    """A published figure."""

    value: Number
    std: Number | None


@more
class Counts(TypedDict):
    """The progress of a sweep."""

    trials: Count
    done: Count
    failed: Count
    stopped: Count
    missing: Count
    lacking: NotRequired[dict[Text, Count]]


@more
class CellRecord(TypedDict):
    """A cell of a table."""

    row: Text
    column: Text
    metric: Text
    unit: Unit
    mean: Number | None
    std: Number | None
    seeds: Count
    trials: Count
    values: dict[Text, Number]
    absent: list[Absent]
    published: Published | None
    difference: Number | None
    within: bool | None
    interval: Interval | None


def _cell(cell: CellRecord) -> CellRecord:
    if bool(cell["values"]) != (cell["mean"] is not None):
        raise ValueError("a cell has a mean if it has values, and only then")
    return cell


Cell = Annotated[CellRecord, AfterValidator(_cell)]


@more
class SideRecord(TypedDict):
    """One side of a claim: the trials of a cell, or a number."""

    name: Text
    mean: Number | None
    std: Number | None
    trials: Count


def _side(side: SideRecord) -> SideRecord:
    if side["mean"] is None and (not side["trials"] or side["std"] is not None):
        raise ValueError("a side of a claim without a mean has trials, and no deviation")
    return side


Side = Annotated[SideRecord, AfterValidator(_side)]


@more
class Point(TypedDict):
    """A claim at one point of the grid."""

    at: dict[Text, Text]
    lower: Side
    higher: Side
    metric: Text
    unit: Unit
    holds: bool | None
    agree: Count
    pairs: Count


@more
class Claim(TypedDict):
    """A claim and its verdict."""

    says: Text
    verdict: Literal["holds", "does not hold", "not known yet"]
    margin: Number
    points: list[Point]
    why: Text | None
    complete: bool


@more
class Difference(TypedDict):
    """How two columns compare in a row, or over all rows."""

    row: Text | None
    metric: Text
    unit: Unit
    pairs: Count
    mean: Number | None
    interval: Interval | None
    p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None


@more
class Comparison(TypedDict):
    """How two columns compare."""

    first: Text
    second: Text
    rows: list[Difference]
    overall: Difference | None


class Warned(TypedDict):
    """A warning: the fields of `SheetWarning`."""

    kind: Text
    text: Text
    key: NotRequired[Text | None]
    name: NotRequired[Text | None]
    row: NotRequired[Text | None]
    column: NotRequired[Text | None]


@more
class Reference(TypedDict):
    """The source of published figures."""

    source: Text


@more
class TableRecord(TypedDict):
    """The table of a sweep, or of a probe."""

    row_axes: list[Text]
    column_axis: Text | None
    rows: list[Text]
    columns: list[Text]
    caption: Text
    reference: Reference | None
    cells: list[Cell]
    summary: NotRequired[list[Text]]
    colours: NotRequired[Interval | None]


def _table(table: Any) -> Any:
    """Check that each cell is in a row and a column of the table, and that no two share a place."""
    rows, columns = set(table["rows"]), set(table["columns"])
    places = [(cell["row"], cell["column"]) for cell in table["cells"]]
    if len(rows) < len(table["rows"]) or len(columns) < len(table["columns"]) or not columns:
        raise ValueError("the rows and columns of a table must have unique names, and there must be a column")
    if any(row not in rows or column not in columns for row, column in places):
        raise ValueError("a cell is in a row or column that its table does not have")
    if len(set(places)) < len(places):
        raise ValueError("two cells are in one place of a table")
    return table


@more
class ProbeTable(TableRecord):
    """The table of a probe."""

    probe: Text


@more
class Report(TableRecord):
    """The table of a sweep, with its claims, comparisons, notes and warnings."""

    counts: Counts
    claims: list[Claim]
    comparisons: list[Comparison]
    notes: list[Text]
    warnings: NotRequired[list[Warned]]
    probes: NotRequired[list[Annotated[ProbeTable, AfterValidator(_table)]]]


@more
class Grid(TypedDict):
    """What a heat map is drawn from: a number at each y and x."""

    kind: Literal["heat_map"]
    x: Annotated[list[Number], Field(min_length=2, max_length=1000)]
    y: Annotated[list[Number], Field(min_length=2, max_length=1000)]
    values: list[list[Number]]


class MappedImage(TypedDict):
    """An image, the map of it, and where that is largest."""

    label: Text
    picture: Picture
    response: Picture
    at: Position


class MappedImages(TypedDict):
    """Images with maps, and the filters that the maps come from, if there are any."""

    kind: Literal["image_maps"]
    images: list[MappedImage]
    filters: list[Picture]


class FindingRecord(TypedDict):
    """The finding of a probe for a trial. `length` is the length of its curves before they were thinned;
    `picture` is what its picture is drawn from, if it has one and the page shows it."""

    kind: Text
    metrics: dict[Text, Number | None]
    curves: Curves
    length: Count
    seconds: NotRequired[Number | None]
    picture: NotRequired[Annotated[Grid | MappedImages, Field(discriminator="kind")]]


def _finding(finding: FindingRecord) -> FindingRecord:
    """Raises ValueError if the finding cannot be drawn."""
    points = min(finding["length"], POINTS)
    if any(len(values) != points for values in finding["curves"].values()):
        raise ValueError(f"the curves of a probe must have {points} points")
    picture = finding.get("picture")
    if picture is not None and picture["kind"] == "heat_map":
        shape = [len(row) for row in picture["values"]]
        if shape != [len(picture["x"])] * len(picture["y"]):
            raise ValueError("a heat map must have a number for each x and y")
    return finding


Finding = Annotated[FindingRecord, AfterValidator(_finding)]


@more
class TrialRecord(TypedDict):
    """A trial and its outcome."""

    key: Text
    labels: dict[Text, Text]
    row: Text
    column: Text
    state: State
    metrics: NotRequired[dict[Text, Number | None]]
    curves: NotRequired[Curves]
    seconds: NotRequired[Seconds | None]
    time: NotRequired[Time | None]
    device: NotRequired[Text | None]
    versions: NotRequired[dict[Text, Text] | None]
    warnings: NotRequired[list[Text]]
    needs: NotRequired[list[Text]]
    lacks: NotRequired[list[Text]]
    error: NotRequired[Text]
    attempts: NotRequired[Count]
    machine: NotRequired[Text | None]
    cpu: NotRequired[Text | None]
    platform: NotRequired[Text | None]
    precision: NotRequired[Text | None]
    threads: NotRequired[Count | None]
    parameters: NotRequired[Count | None]
    python: NotRequired[Text | None]
    commit: NotRequired[Text | None]
    findings: NotRequired[dict[Text, Finding]]


def _trial(trial: TrialRecord) -> TrialRecord:
    if trial["state"] == "done" and not trial.keys() >= set(FIXED):
        raise ValueError(f"a finished trial must have {', '.join(FIXED)}")
    lengths = {len(values) for values in trial.get("curves", {}).values()}
    if lengths and (len(lengths) > 1 or "epoch" not in trial.get("curves", {})):
        raise ValueError("curves must have an epoch for each of their points")
    return trial


Trial = Annotated[TrialRecord, AfterValidator(_trial)]


class Axis(TypedDict):
    """An axis of the grid, and the labels of its values."""

    name: Text
    labels: list[Text]


@more
class SweepRecord(TypedDict):
    """A sweep: its table, its trials, and the settings that they share."""

    name: Text
    question: Text
    file: Text
    metric: Text
    unit: Unit
    views: dict[Text, ProbeView]
    row_axes: list[Text]
    column_axis: Text | None
    axes: list[Axis]
    report: Annotated[Report, AfterValidator(_table)]
    trials: list[Trial]
    recipe: list[Pair]


@more
class DataRecord(TypedDict):
    """A data set: its card, and its picture."""

    name: Text
    key: Text
    title: Text
    split: Text
    images: Count
    card: list[Pair]
    seconds: Seconds | None
    time: Text | None
    picture: Picture | None
    no_picture: Text


@more
class DocumentRecord(TypedDict):
    """The whole document of a page."""

    format: Literal[2]
    made: Time
    sweeps: Annotated[list[SweepRecord], Field(min_length=1)]
    data: list[DataRecord]
