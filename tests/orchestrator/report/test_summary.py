"""The summary of a table: the mean and the worst of each row, and the best of each column."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.cli.tables import rich_table
from orchestrator.report.colours import mixed, shade
from orchestrator.report.html import document_of, page_of
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.report.test_report import status
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError

GRID = {"train.epochs": [1, 2], "data.poison": ["clean", "ops", "randpix"], "seed": [0, 1]}
WORDS = {"rows": "train.epochs", "columns": "data.poison", "summary": ["ops", "randpix"]}
ACCS: list[float | None] = [0.9, 0.8, 0.4, 0.2, 0.3, 0.7, 0.7, 0.7, 0.1, 0.2, 0.6, 0.5]


def made(store: Store, accs: list[float | None] = ACCS, **words: Any) -> report.Sheet:
    return report.make_sheet(status(store, accs, grid=GRID, report=WORDS | words), Path("tiny.yaml"))


def test_mean_and_worst_are_formed_seed_by_seed_over_the_named_columns(store: Store) -> None:
    table = made(store).table
    assert table.columns == ("clean", "ops", "randpix", "mean", "worst")
    mean, worst = table.cells["1", "mean"], table.cells["1", "worst"]
    by_seed = [(0.4 + 0.3) / 2, (0.2 + 0.7) / 2]
    assert (mean.mean, mean.std) == (
        pytest.approx(statistics.fmean(by_seed)),
        pytest.approx(statistics.stdev(by_seed)),
    )
    assert (worst.values, worst.mean) == (table.cells["1", "ops"].values, pytest.approx(0.3))
    assert table.cells["2", "worst"].values == table.cells["2", "ops"].values
    assert mean.labels == {"train.epochs": "1", "data.poison": "mean"}
    assert mean.keys == ()


def test_the_best_row_of_each_column_is_marked_in_every_format(store: Store) -> None:
    sheet = made(store)
    table = sheet.table
    assert [table.best(column) for column in table.columns] == [{"1"}, {"1"}, {"2"}, {"1"}, {"1"}]
    markdown, latex = report.sheet_markdown(sheet), report.latex(sheet)
    assert "| **85.00 ± 7.07** | **30.00 ± 14.14** | 50.00 ± 28.28 | **40.00 ± 7.07** | " in markdown
    assert rf"\cellcolor[HTML]{{{mixed(1.0)}}}\textbf{{85.00 \ensuremath{{\pm}} 7.07}}" in latex
    cell = next(iter(rich_table(table, table.columns).columns[1].cells))
    assert [span.style for span in cell.spans] == [f"bold black on #{mixed(1.0)}"]  # type: ignore[union-attr]
    says = "mean and worst over ops, randpix; best of each column marked"
    assert says in markdown
    page = page_of(document_of([sheet]))
    assert says in page
    assert page.count('class="shaded best"') == 5
    assert "; randpix " in page
    assert "; worst " not in page, "figures show trials"
    assert '<td title="seed 0: 90.00, seed 1: 80.00' in page


def test_cells_are_coloured_from_chance_to_the_highest_mean(store: Store) -> None:
    """From the lowest mean where nobody knows the number of classes, or for a loss."""
    other = Store(store.root.parent / "other")
    lowest, highest = made(other).table.colours or (None, None)
    assert (lowest, highest) == (pytest.approx(0.15), pytest.approx(0.85))
    ledger, four = Ledger(store.where), {"per_class_acc": [0.5, None, 0.5, 0.5]}
    for task, acc in zip(plan_of(tiny(grid=GRID, report=WORDS), store).tasks, ACCS, strict=True):
        ledger.publish(task.key, {"metrics": {"test/clean_acc": acc}, **four})
    sheet = report.make_sheet(status(store, [], grid=GRID, report=WORDS), Path("tiny.yaml"))
    table = sheet.table
    assert table.colours == (0.25, pytest.approx(0.85))
    assert table.shade("1", "ops") == pytest.approx((0.3 - 0.25) / (0.85 - 0.25))
    assert table.shade("2", "ops") == 0.0, "below chance is chance"
    page, latex = page_of(document_of([sheet])), report.latex(sheet)
    assert 'style="--shade: 8%"' in page
    assert rf"\cellcolor[HTML]{{{mixed(0.05 / 0.6)}}}" in latex
    plain = report.make_sheet(
        status(store, [], grid=GRID, report={**WORDS, "summary": []}), Path("tiny.yaml")
    )
    assert (plain.table.colours, "cellcolor" in report.latex(plain)) == (None, False)


def test_colours_of_an_empty_or_level_table() -> None:
    assert shade(None, (0.1, 0.9)) is None
    assert shade(0.5, None) is None
    assert shade(0.5, (0.5, 0.5)) == 0.0
    assert (mixed(0.0), mixed(1.0)) == ("F4D6D0", "B0DBC4")


def test_a_row_that_lacks_a_cell_has_no_summary_yet(store: Store) -> None:
    accs: list[float | None] = [0.9, 0.8, 0.5, 0.3, None, None]
    table = made(store, accs).table
    assert table.cells["1", "mean"].mean is None
    assert report.text(table, "1", "mean") == "2 failed"
    assert report.text(table, "2", "worst") == "4 not run"
    assert table.best("mean") == frozenset()


def test_the_mean_is_that_of_the_cells_beside_it_also_if_seeds_are_missing(store: Store) -> None:
    accs: list[float | None] = [0.9, 0.8, 0.9, 0.1, 0.5, None]
    table = made(store, accs).table
    shown = [report.text(table, "1", column) for column in ("ops", "randpix", "mean", "worst")]
    assert shown == [
        "50.00 ± 56.57", "50.00 (1 of 2, 1 failed)", "50.00 (1 of 2, 1 failed)", "50.00 ± 56.57",
    ]  # fmt: skip


@pytest.mark.parametrize("skipped", [["randpix"], ["ops", "randpix"]])
def test_a_row_without_one_of_the_columns_has_no_summary(store: Store, skipped: list[str]) -> None:
    """Rows are compared over the same poisons."""
    skip = [{"train.epochs": 2, "data.poison": skipped}]
    found = status(store, ACCS, grid=GRID, report=WORDS, skip=skip)
    table = report.make_sheet(found, Path("tiny.yaml")).table
    assert ("1", "mean") in table.cells
    assert ("2", "mean") not in table.cells
    assert report.text(table, "2", "mean") == ""


def test_claims_warnings_and_csv_are_of_trials(store: Store) -> None:
    claim = {"says": "x", "lower": {"train.epochs": "1"}, "higher": {"train.epochs": "2"}}
    plain, with_summary = (made(store, summary=s, claims=[claim]) for s in ([], ["ops", "randpix"]))
    assert len(with_summary.claims[0].points) == len(plain.claims[0].points) == 3
    assert with_summary.warnings == plain.warnings
    assert report.comma_separated(with_summary) == report.comma_separated(plain)


@pytest.mark.parametrize("second", ["test/peak_clean_acc", "train/loss"])
def test_rows_of_several_metrics_are_compared_within_each(store: Store, second: str) -> None:
    """In colours as long as they share a unit."""
    words = {
        **WORDS,
        "rows": ["train.epochs", "metric"],
        "metrics": {"last": "test/clean_acc", "other": second},
    }
    ledger = Ledger(store.where)
    for task, acc in zip(plan_of(tiny(grid=GRID, report=words), store).tasks, ACCS, strict=True):
        assert acc is not None
        ledger.publish(task.key, {"metrics": {"test/clean_acc": acc, second: 1 - acc / 2}})
    sheet = report.make_sheet(status(store, [], grid=GRID, report=words), Path("tiny.yaml"))
    table = sheet.table
    assert table.rows == ("1, last", "1, other", "2, last", "2, other")
    assert [table.best(column) for column in table.columns] == [
        {"1, last", "2, other"}, {"1, last", "2, other"}, {"2, last", "1, other"}, {"1, last", "2, other"},
        {"1, last", "1, other"},
    ]  # fmt: skip
    assert (table.colours is None) == (second == "train/loss")
    page, latex = page_of(document_of([sheet])), report.latex(sheet)
    shaded = 'class="shaded best"' if table.colours else 'class="best"'
    assert (page.count(shaded), page.count("best of each column and metric marked") > 0) == (10, True)
    assert (latex.count(r"\textbf"), "cellcolor" in latex) == (10, table.colours is not None)
    assert "**" in report.sheet_markdown(sheet)


def test_without_a_summary_nothing_is_marked(store: Store) -> None:
    table = made(store, summary=[]).table
    assert table.columns == ("clean", "ops", "randpix")
    assert table.best("ops") == frozenset()


TWO = {"acc": "test/clean_acc", "loss": "train/loss"}
TAKEN = {**GRID, "data.poison": {"clean": "clean", "worst": "ops", "ops": "randpix"}}


@pytest.mark.parametrize(
    ("grid", "words", "message"),
    [
        (GRID, {"summary": ["opss"]}, "the table has no column 'opss'; did you mean 'ops'"),
        (GRID, {"summary": ["ops", "ops"]}, "a column is named twice: ops, ops"),
        (GRID, {"metrics": TWO, "rows": ["train.epochs", "data.poison"], "columns": "metric"}, "it averages columns, which are metrics here: put metric into rows"),
        (GRID, {"compare": [["ops", "ops"]]}, "compare: 'ops' is on both sides; write two different columns"),
        (TAKEN, {"summary": ["ops"]}, "the table has a column 'worst': give that another label"),
    ],
)  # fmt: skip
def test_a_summary_that_cannot_be_formed_is_an_error(
    store: Store, grid: Any, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(tiny(grid=grid, report=WORDS | words), store)
