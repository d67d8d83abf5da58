"""The table of a sweep as the page shows it: mean and standard deviation of each cell, with the published
figure and the difference below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from orchestrator.planning.snapshot import SUMMARY
from orchestrator.report.colours import Ends, shade
from orchestrator.report.html.numbers import shown, signed, suffix
from orchestrator.report.html.records import CellRecord, TableRecord
from orchestrator.report.wording import counted
from trainers.probe_view import Unit

Cell = CellRecord

SURE = ("mean", "std", "95 % interval of the mean")
VERDICTS = {
    True: ("within", "=", "within two standard deviations of it"),
    False: ("outside", "≠", "more than two standard deviations from it"),
    None: ("unknown", "", "from a single seed, so its variation is unknown"),
}


class DifferenceView(TypedDict):
    """Ours minus the published figure, and whether they agree."""

    text: str
    kind: str
    sign: str
    says: str


class CellView(TypedDict):
    """A cell; texts are empty where there is nothing to say. In a table with a summary it may be the `best`
    of its column, and `shade` is where its mean lies between the ends of the colours, in percent."""

    value: str
    std: str
    why: str
    published: str
    difference: DifferenceView | None
    tip: str
    best: bool
    shade: int | None


class RowView(TypedDict):
    """A row, with None where the sweep leaves a cell out."""

    name: str
    cells: list[CellView | None]


class SeedsView(TypedDict):
    """The values of every seed, of which the first `seeds_labels` columns are labels."""

    seeds: list[list[str]]
    seeds_head: list[str]
    seeds_labels: int
    seeds_caption: str


class TableView(SeedsView):
    """A table of results."""

    corner: str
    axis: str | None
    columns: list[str]
    rows: list[RowView]
    caption: str
    published: bool
    source: str


def without_summary(report: TableRecord) -> TableRecord:
    """The table without the columns of its summary, for figures of trials."""
    if not report.get("summary"):
        return report
    columns = report["columns"][: -len(SUMMARY)]
    cells = [cell for cell in report["cells"] if cell["column"] in columns]
    return {**report, "columns": columns, "cells": cells}


def table_view(report: TableRecord) -> TableView:
    """Header, rows of cells, and caption."""
    places = {(cell["row"], cell["column"]): cell for cell in report["cells"]}
    counts = {cell["trials"] for cell in report["cells"]}
    usual = counts.pop() if len(counts) == 1 else None
    published = any(cell["published"] for cell in report["cells"])
    rows = list[RowView]()
    means = [cell["mean"] for cell in report["cells"] if cell["mean"] is not None]
    matrix = bool(report.get("summary")) and means != []
    most = _highest(report["cells"]) if matrix else {}
    colours = report.get("colours", [0.0, max(means)]) if matrix else None
    ends = None if colours is None else (colours[0], colours[1])
    for row in report["rows"]:
        cells = [places.get((row, column)) for column in report["columns"]]
        shown = [
            cell and _cell(cell, usual, most.get((cell["column"], cell["metric"])), ends) for cell in cells
        ]
        rows.append({"name": row, "cells": shown})
    return {
        **_seeds(report),
        "corner": " / ".join(report["row_axes"]) or "sweep",
        "axis": report["column_axis"],
        "columns": report["columns"],
        "rows": rows,
        "caption": report["caption"],
        "published": published,
        "source": report["reference"]["source"] if published and report["reference"] else "",
    }


def _seeds(report: TableRecord) -> SeedsView:
    """A line for each cell: the value of every seed, the mean, its standard deviation and its interval."""
    cells = [cell for cell in report["cells"] if cell["values"]]
    seeds = list(dict.fromkeys(seed for cell in cells for seed in cell["values"]))
    several = len(report["columns"]) > 1
    labels = [" / ".join(report["row_axes"]) or "sweep"]
    labels += [report["column_axis"] or ""] if several else []
    lines = [[cell["row"], *([cell["column"]] if several else []), *_numbers(cell, seeds)] for cell in cells]
    return {
        "seeds": lines,
        "seeds_head": [*labels, *(f"seed {seed}" if seed.isdigit() else seed for seed in seeds), *SURE],
        "seeds_labels": len(labels),
        "seeds_caption": "std is the sample standard deviation; the interval is a percentile bootstrap",
    }


def _numbers(cell: Cell, seeds: Sequence[str]) -> list[str]:
    unit, values = cell["unit"], cell["values"]
    by_seed = [shown(values[seed], unit) if seed in values else "–" for seed in seeds]
    spread = "–" if cell["std"] is None else shown(cell["std"], unit, like=cell["mean"])
    sure = _interval(cell["interval"], unit) if cell["interval"] else "–"
    return [*by_seed, "–" if cell["mean"] is None else shown(cell["mean"], unit), spread, sure]


def _highest(cells: Sequence[Cell]) -> dict[tuple[str, str], float]:
    """The highest mean of each column and metric."""
    means = ((cell["column"], cell["metric"], cell["mean"]) for cell in cells if cell["mean"] is not None)
    return {(column, metric): mean for column, metric, mean in sorted(means)}  # the last one stays


def _cell(cell: Cell, usual: int | None, most: float | None = None, ends: Ends | None = None) -> CellView:
    """A cell; `usual` is how many trials each has, `most` the highest mean of its column and metric,
    `ends` those of the colours."""
    unit, mean = cell["unit"], cell["mean"]
    complete, share = cell["seeds"] == cell["trials"] and usual is not None, shade(mean, ends)
    return {
        "value": "–" if mean is None else shown(mean, unit),
        "std": shown(cell["std"], unit, like=mean) if cell["std"] is not None else "",
        "why": absent(cell) if mean is None else "" if complete else _count(cell),
        "published": _published(cell),
        "difference": _difference(cell),
        "tip": "" if mean is None else _tip(cell),
        "best": mean is not None and mean == most,
        "shade": None if share is None else round(100 * share),
    }


def _count(cell: Cell) -> str:
    seeds = f"{cell['seeds']} seed{'' if cell['seeds'] == 1 else 's'}"
    if cell["seeds"] == cell["trials"]:
        return seeds
    return f"{cell['seeds']} of {cell['trials']} seeds; {absent(cell)}"


def absent(cell: Cell) -> str:
    """`2 failed, 1 not run`, `3 lack distance`"""
    why: dict[str, int] = {}
    for one in cell["absent"]:
        reason = f"lacks {one['probe']}" if one.get("probe") else one["why"]
        why[reason] = why.get(reason, 0) + 1
    return ", ".join(counted(number, reason) for reason, number in why.items())


def _published(cell: Cell) -> str:
    known = cell["published"]
    if not known:
        return ""
    spread = "" if known["std"] is None else f" ± {shown(known['std'], cell['unit'], like=known['value'])}"
    return shown(known["value"], cell["unit"]) + spread


def _difference(cell: Cell) -> DifferenceView | None:
    if cell["difference"] is None:
        return None
    kind, sign, says = VERDICTS[cell["within"]]
    return {"text": signed(cell["difference"], cell["unit"]), "kind": kind, "sign": sign, "says": says}


def _tip(cell: Cell) -> str:
    """The values of all seeds, and the interval of their mean."""
    unit = cell["unit"]
    values = ", ".join(f"seed {seed}: {shown(value, unit)}" for seed, value in cell["values"].items())
    if not cell["interval"]:
        return values
    return f"{values}; 95 % bootstrap interval of the mean: {_interval(cell['interval'], unit)}"


def _interval(ends: Sequence[float], unit: Unit) -> str:
    return " to ".join(shown(end, unit) for end in ends) + suffix(unit)
