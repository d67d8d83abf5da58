"""A report has means and sample standard deviations over seeds of finished trials, never over different settings."""

from __future__ import annotations

import io
import json
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import report
from orchestrator.cli.tables import FittedTable, below, legend
from orchestrator.cli.terminal import Terminal
from orchestrator.monitoring.sweep_status import SweepStatus, read_status
from orchestrator.report.wording import spread
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

GRID = {"data.poison": ["clean", "ops"], "train.epochs": [1, 2], "seed": [0, 1, 2]}
PUBLISHED = {"source": "a paper", "units": "percent", "tables": {"t": {"cells": [
    {"row": "clean", "column": "1", "value": 33.0},
    {"row": "clean", "column": "2", "value": 41.0},
    {"row": "ops", "column": "1", "value": 90.0, "std": 2.0, "runs": 5},
    {"row": "ops", "column": "2", "value": 10.0},
    {"row": "nobody", "column": "2", "value": 10.0},
]}}}  # fmt: skip


def status(store: Store, accs: list[float | None], **changes: Any) -> SweepStatus:
    """Finish the sweep's trials in order; None: failed; trials beyond the list are missing."""
    plan, ledger = plan_of(tiny(**{"grid": GRID, **changes}), store), Ledger(store.where)
    for task, acc in zip(plan.tasks, accs, strict=False):
        if acc is None:
            ledger.fail(task.key, {"error": "Boom: no [x]\nmore", "traceback": None, "kind": "trial"})
        else:
            ledger.publish(task.key, {"metrics": {"test/clean_acc": acc, "train/loss": 1 - acc}})
    return read_status(plan.snapshot, ledger)


def table(store: Store, accs: list[float | None], **changes: Any) -> report.Table:
    return report.tabulate(status(store, accs, **changes))


def sheet(store: Store, accs: list[float | None], published: Any = PUBLISHED, **changes: Any) -> report.Sheet:
    """The same with published figures."""
    folder = store.root.parent / "sweeps"
    (folder / "reference").mkdir(parents=True, exist_ok=True)
    (folder / "reference" / "paper.json").write_text(json.dumps(published))
    words = {"reference": "paper/t", **changes}
    return report.make_sheet(status(store, accs, report=words), folder / "tiny.yaml")


def test_cells_are_means_and_standard_deviations_over_seeds(store: Store) -> None:
    accs = [0.1, 0.2, 0.6, 0.4, 0.4, 0.4, 0.9]
    found = table(store, accs)
    assert found.rows == ("clean", "ops")
    assert found.columns == ("1", "2")
    cell = found.cells["clean", "1"]
    assert cell.mean == pytest.approx(statistics.fmean(accs[:3]))
    assert cell.std == pytest.approx(statistics.stdev(accs[:3]))
    assert dict(cell.values) == {"0": 0.1, "1": 0.2, "2": 0.6}
    assert [report.text(found, *place) for place in found.cells] == [
        "30.00 ± 26.46",
        "40.00 ± 0.00",
        "90.00 (1 of 3)",
        "not run",
    ]


def test_failures_are_shown_with_their_reason(store: Store) -> None:
    found = table(store, [None, None, None, 0.5, None, 0.7])
    assert report.text(found, "clean", "1") == "3 failed"
    cell = found.cells["clean", "2"]
    assert cell.failed == 1
    assert report.text(found, "clean", "2") == "60.00 ± 14.14 (2 of 3, 1 failed)"
    assert [(one.seed, one.why, one.kind, one.error) for one in cell.absent] == [
        ("1", "failed", "trial", "Boom: no [x]")
    ]
    assert {one.why for one in found.cells["ops", "1"].absent} == {"not run"}


def test_rows_and_columns_follow_the_sweep_file(store: Store) -> None:
    words = {"rows": "train.epochs", "columns": "data.poison", "metric": "train/loss"}
    found = table(store, [0.1] * 12, report=words)
    assert (found.rows, found.columns) == (("1", "2"), ("clean", "ops"))
    assert report.text(found, "1", "ops") == "0.90 ± 0.00"
    assert report.caption(found) == "train/loss, mean ± std over 3 seeds"


METRICS = {"accuracy": "test/clean_acc", "loss": "train/loss"}


@pytest.mark.parametrize(
    ("words", "rows", "columns", "place"),
    [
        ({}, 4, 2, ("clean, loss", "2")),
        ({"rows": ["metric", "data.poison"]}, 4, 2, ("loss, clean", "2")),
        ({"rows": ["data.poison", "train.epochs"], "columns": "metric"}, 4, 2, ("clean, 2", "loss")),
    ],
)
def test_several_metrics_are_an_additional_axis(
    store: Store, words: dict[str, Any], rows: int, columns: int, place: tuple[str, str]
) -> None:
    found = table(store, [0.1] * 3 + [0.25] * 3, report={"metrics": METRICS, **words})
    assert (len(found.rows), len(found.columns)) == (rows, columns)
    assert found.cells[place].metric == "train/loss"
    assert report.text(found, *place) == "0.75 ± 0.00"
    assert {cell.trials for cell in found.cells.values()} == {3}
    assert "accuracies in %" in report.caption(found)


def test_metrics_as_rows_without_a_column_axis_give_one_column(store: Store) -> None:
    grid = {"seed": [0, 1, 2]}
    found = table(store, [0.1] * 3, grid=grid, report={"metrics": METRICS, "rows": "metric"})
    assert (found.rows, found.columns) == (tuple(METRICS), ("value",))


@pytest.mark.parametrize(
    ("mean", "std", "unit", "words"),
    [
        (0.9784, 0.0031, "%", "97.84 ± 0.31"),
        (0.0123, 0.00042, "", "0.0123 ± 0.0004"),
        (0.0, 0.0, "nats", "0.00 ± 0.00"),
        (12.834, 0.29, "", "12.83 ± 0.29"),
        (43210.0, 17.0, "steps", "43210 ± 17"),
        (-1e-12, None, "nats", "0.0000000"),
    ],
)
def test_a_small_number_has_enough_decimals(mean: float, std: float | None, unit: str, words: str) -> None:
    assert spread(mean, std, unit) == words


def test_a_result_without_the_metric_is_absent_without_an_error(store: Store) -> None:
    plan, ledger = plan_of(tiny(), store), Ledger(store.where)
    for task in plan.tasks:
        ledger.publish(task.key, {"metrics": {"train/loss": 0.5}})
    found = report.make_sheet(read_status(plan.snapshot, ledger), Path("tiny.yaml"))
    assert {one.why for cell in found.table.cells.values() for one in cell.absent} == {"no value"}
    assert [line.plain for line in below(found)] == [
        "missing: it finished without test/clean_acc (4 times: data.poison=clean, seed=0; "
        "data.poison=clean, seed=1; data.poison=ops, seed=0; data.poison=ops, seed=1)"
    ]


def test_ours_agree_with_the_published_figure_within_two_deviations(store: Store) -> None:
    accs = [0.30, 0.32, 0.34, 0.40, 0.40, 0.40, 0.85, 0.86, 0.87, 0.12]
    cells = sheet(store, accs).table.cells
    assert [cells[place].within for place in cells] == [True, False, True, None]
    naive = {}
    for (row, column), ours in zip(cells, (accs[:3], accs[3:6], accs[6:9]), strict=False):
        theirs = next(
            c for c in PUBLISHED["tables"]["t"]["cells"] if (c["row"], c["column"]) == (row, column)
        )
        gap = np.mean(ours) - theirs["value"] / 100
        spread = np.hypot(np.std(ours, ddof=1), theirs.get("std", 0) / 100)
        naive[row, column] = bool(abs(gap) <= 2 * spread)
        assert cells[row, column].difference == pytest.approx(gap)
    assert naive == {place: cells[place].within for place in naive}
    texts = [line for line in rendered(sheet(store, accs)).splitlines() if "│" in line]
    assert "33.00 -1.00 =" in texts[1]
    assert "41.00 -1.00 ≠" in texts[1]
    assert "90.00 ± 2.00 -4.00 =" in texts[3]
    assert "10.00 +2.00 ?" in texts[3]


def rendered(one: report.Sheet, *, colour: bool = False) -> str:
    console = Terminal(width=200, file=io.StringIO(), force_terminal=colour, color_system="standard")
    console.print(FittedTable(one.table), legend(one.table), *below(one), sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 250])
def test_a_table_wider_than_the_terminal_is_continued_below(store: Store, width: int) -> None:
    """Every heading and every number is there once and whole."""
    columns = {f"rate-{i}": i / 100 for i in range(1, 13)}
    grid = {"train.epochs": [1, 2], "train.label_smoothing": columns, "seed": [0, 1]}
    words = {"rows": "train.epochs", "columns": "train.label_smoothing", "summary": ["rate-1", "rate-2"]}
    one = table(store, [i / 50 for i in range(48)], grid=grid, report=words)
    console = Terminal(width=width, file=io.StringIO())
    console.print(FittedTable(one))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    found = Counter(re.findall(r"\brate-\d+|\d+\.\d+", shown.partition("test/clean_acc")[0]))
    numbers = re.findall(r"\d+\.\d+", " ".join(report.text(one, *place) for place in one.cells))
    assert found == Counter([*columns, *numbers])
    assert max(map(len, shown.splitlines())) <= width
    assert (shown.count("train.epochs") > 1) == (width < 250)
    assert (shown.count("tiny: "), shown.count("test/clean_acc")) == (1, 1)


def test_a_terminal_has_colours_besides_signs(store: Store) -> None:
    found = rendered(sheet(store, [0.30, 0.32, 0.34, 0.40, 0.40, 0.40, 0.90, 0.90, 0.90, 0.1]), colour=True)
    green, yellow, dim = "\x1b[32m", "\x1b[33m", "\x1b[2m"
    assert f"{green}33.00 -1.00 =" in found
    assert f"{yellow}41.00 -1.00 ≠" in found
    assert f"{dim}10.00 +0.00 ?" in found
    assert "below each: as published (a paper)" in found


def test_published_figures_of_another_metric_are_not_compared(store: Store) -> None:
    of = {"t": {**PUBLISHED["tables"]["t"], "metric": "test/clean_acc"}}
    published = {**PUBLISHED, "tables": of}
    assert sheet(store, [0.5] * 12, published).table.cells["clean", "1"].published is not None
    other = sheet(store, [0.5] * 12, published, metric="train/loss")
    assert {cell.published for cell in other.table.cells.values()} == {None}
    assert legend(other.table) is None


def test_a_single_column_is_matched_by_rows_alone(store: Store) -> None:
    published = {"source": "p", "units": "share", "tables": {"t": {"cells": [
        {"row": "clean", "column": "accuracy", "value": 0.5}]}}}  # fmt: skip
    cells = sheet(store, [], published, rows=["data.poison", "train.epochs"], columns=None).table.cells
    assert {cell.published for cell in cells.values()} == {None}, "two columns, of other labels"
    plan = plan_of(tiny(report={"reference": "paper/t"}), store)
    file = store.root.parent / "sweeps" / "tiny.yaml"
    found = report.make_sheet(read_status(plan.snapshot, Ledger(store.where)), file).table
    assert found.columns == ("test/clean_acc",)
    assert found.cells["clean", "test/clean_acc"].published.value == 0.5  # type: ignore[union-attr]


def test_missing_trials_are_listed_below_the_table(store: Store) -> None:
    found = [line.plain for line in below(sheet(store, [0.1, None, 0.2]))]
    assert found == [
        "failed: data.poison=clean, train.epochs=1, seed=1: trial: Boom: no [x]",
        "missing: 9 of 12 trials have not run yet",
    ]
    assert list(below(sheet(store, [0.1] * 12))) == []


def test_one_axis_gives_one_column(store: Store) -> None:
    plan, ledger = plan_of(tiny(), store), Ledger(store.where)
    found = report.tabulate(read_status(plan.snapshot, ledger))
    assert found.rows == ("clean", "ops")
    assert found.columns == ("test/clean_acc",)
