"""The summary of a table: the mean and the worst of each row, and the best of each column."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.cli.tables import rich_table
from orchestrator.report.html import document_of, page_of
from poisons import Store
from tests.orchestrator.report.test_report import status
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError

GRID = {"train.epochs": [1, 2], "data.poison": ["clean", "ops", "randpix"], "seed": [0, 1]}
WORDS = {"rows": "train.epochs", "columns": "data.poison", "summary": ["ops", "randpix"]}
ACCS: list[float | None] = [0.9, 0.8, 0.5, 0.3, 0.2, 0.6, 0.7, 0.7, 0.1, 0.2, 0.6, 0.5]


def made(store: Store, accs: list[float | None] = ACCS, **words: Any) -> report.Sheet:
    return report.make_sheet(status(store, accs, grid=GRID, report=WORDS | words), Path("tiny.yaml"))


def test_mean_and_worst_are_formed_seed_by_seed_over_the_named_columns(store: Store) -> None:
    table = made(store).table
    assert table.columns == ("clean", "ops", "randpix", "mean", "worst")
    mean, worst = table.cells["1", "mean"], table.cells["1", "worst"]
    by_seed = [(0.5 + 0.2) / 2, (0.3 + 0.6) / 2]
    assert (mean.mean, mean.std) == (
        pytest.approx(statistics.fmean(by_seed)),
        pytest.approx(statistics.stdev(by_seed)),
    )
    assert worst.values == table.cells["1", "ops"].values or worst.mean == pytest.approx(0.4)
    assert table.cells["2", "worst"].values == table.cells["2", "ops"].values
    assert mean.labels == {"train.epochs": "1", "data.poison": "mean"}
    assert mean.keys == ()


def test_the_best_row_of_each_column_is_marked_in_every_format(store: Store) -> None:
    sheet = made(store)
    table = sheet.table
    assert [table.best(column) for column in table.columns] == [{"1"}, {"1"}, {"2"}, {"1"}, {"1"}]
    markdown, latex = report.sheet_markdown(sheet), report.latex(sheet)
    assert "| **85.00 ± 7.07** | **40.00 ± 14.14** | 40.00 ± 28.28 | **40.00 ± 7.07** | " in markdown
    assert r"\textbf{85.00 \ensuremath{\pm} 7.07}" in latex
    cell = next(iter(rich_table(table).columns[1].cells))
    assert cell.style == "bold"  # type: ignore[union-attr]
    says = "mean and worst over ops, randpix; best of each column marked"
    assert says in markdown
    page = page_of(document_of([sheet]))
    assert says in page
    assert page.count('class="shaded best"') == 5
    assert "; randpix " in page
    assert "; worst " not in page, "figures show trials"
    assert '<td title="seed 0: 90.00, seed 1: 80.00' in page


def test_a_row_that_lacks_a_cell_has_no_summary_yet(store: Store) -> None:
    accs: list[float | None] = [0.9, 0.8, 0.5, 0.3, None, None]
    table = made(store, accs).table
    assert table.cells["1", "mean"].mean is None
    assert report.text(table, "1", "mean") == "2 failed"
    assert report.text(table, "2", "worst") == "4 not run"
    assert table.best("mean") == frozenset()


def test_without_a_summary_nothing_is_marked(store: Store) -> None:
    table = made(store, summary=[]).table
    assert table.columns == ("clean", "ops", "randpix")
    assert table.best("ops") == frozenset()


def test_a_summary_over_an_unknown_column_is_an_error(store: Store) -> None:
    with pytest.raises(
        InputError, match="report: summary: the table has no column 'opss'; did you mean 'ops'"
    ):
        plan_of(tiny(grid=GRID, report=WORDS | {"summary": ["opss"]}), store)
