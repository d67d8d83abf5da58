"""Learning curves stay readable with many rows and columns."""

from __future__ import annotations

from typing import Any, cast

import pytest

from orchestrator.report.html.curves import learning
from orchestrator.report.html.figure import SERIES, colour, dash, marker
from orchestrator.report.html.grouping import Key, Sweep

CURVES = {"epoch": [1, 2], "test/clean_acc": [0.1, 0.5], "train/acc": [0.2, 0.6]}


def sweep(rows: int, columns: int) -> Sweep:
    trials: list[dict[str, Any]] = [
        {"row": f"row {r}", "column": f"column {c}", "state": "done", "curves": CURVES, "labels": {}}
        for r in range(rows)
        for c in range(columns)
    ]
    return cast("Sweep", {"trials": trials, "row_axes": ["down"], "column_axis": "across"})


def ends(svg: str) -> str:
    """The description of a figure, with the value at the end of each line."""
    return svg.partition('aria-label="')[2].partition('"')[0]


def names(word: str, count: int) -> list[str]:
    return [f"{word} {i}" for i in range(count)]


@pytest.mark.parametrize(
    ("rows", "columns", "panels", "lines"),
    [
        (10, 8, names("row", 10), names("column", 8)),
        (2, 9, names("column", 9), names("row", 2)),
        (9, 9, [f"row {i}, column {a}" for i in range(9) for a in ("0 to column 7", "8 to column 8")], names("column", 9)),
    ],
    ids=str,
)  # fmt: skip
def test_no_panel_has_more_lines_than_there_are_colours(
    rows: int, columns: int, panels: list[str], lines: list[str]
) -> None:
    found = learning(sweep(rows, columns))
    assert found is not None
    assert [one.title for one in found.panels] == panels
    assert [key.label for key in found.legend if key.form == "line"] == lines
    drawn = [ends(one.svg).count(" 50.00") for one in found.panels]
    assert (max(drawn) <= SERIES, sum(drawn)) == (True, rows * columns)


def test_series_differ_in_colour_or_dashes() -> None:
    assert len({(colour(i), str(dash(i))) for i in range(4 * SERIES)}) == 4 * SERIES
    keys = [Key("", i) for i in range(4 * SERIES)]
    assert len({(key.colour, key.dashes) for key in keys}) == 4 * SERIES
    assert [(key.colour, key.dashes) for key in keys[:2]] == [("var(--c1)", ""), ("var(--c2)", "5 2")]
    assert len({(colour(i), marker(i)) for i in range(8 * SERIES)}) == 8 * SERIES
