"""Of a search the best cells are told, and survivors do not pass for winners."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import report
from orchestrator.monitoring.sweep_status import SweepStatus, read_status
from orchestrator.report.ranking import best_cells, ranking
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

GRID = {"train.epochs": list(range(1, 14)), "seed": [0, 1]}


def status(store: Store, values: dict[str, list[float | None]], **run: Any) -> SweepStatus:
    """A sweep whose trials have these values, by number of epochs and seed; None was stopped."""
    sweep = tiny(grid=GRID, run=run)
    plan, ledger = plan_of(sweep, store), Ledger(store.where)
    for task in plan.tasks:
        found = values.get(task.point.labels["train.epochs"], [])[task.trial.seed : task.trial.seed + 1]
        for value in found:
            if value is None:
                ledger.stop(task.key, {"epoch": 1, "metric": "test/clean_acc", "value": 0.1})
            else:
                ledger.publish(task.key, {"metrics": {"test/clean_acc": value}})
    return read_status(plan.snapshot, ledger)


OPTUNA = {"search": "optuna", "num_samples": 5, "scheduler": "asha"}
VALUES: dict[str, list[float | None]] = {"3": [0.5, 0.6], "7": [0.9, 0.8], "4": [0.95, None], "9": [0.7], "5": [None, None]}  # fmt: skip


def test_the_best_come_first_and_cells_that_are_not_whole_last(store: Store) -> None:
    assert best_cells(status(store, VALUES, **OPTUNA)) == [
        "best cells by test/clean_acc:",
        "    85.00 ± 7.07  train.epochs=7",
        "    55.00 ± 7.07  train.epochs=3",
        "95.00 (1 of 2, 1 stopped)  train.epochs=4",
        "  70.00 (1 of 2)  train.epochs=9",
    ]


def test_where_less_is_better_the_least_come_first(store: Store) -> None:
    rows = [cell.row for cell in ranking(status(store, VALUES, **OPTUNA, mode="min"))]
    assert rows == ["train.epochs=3", "train.epochs=7", "train.epochs=9", "train.epochs=4"]


def test_a_report_with_several_metrics_is_ranked_by_the_one_that_is_searched_for(store: Store) -> None:
    metrics = {"loss": "train/loss", "accuracy": "test/clean_acc"}
    sweep = tiny(grid=GRID, run=OPTUNA, report={"metrics": metrics, "rows": ["train.epochs", "metric"]})
    plan, ledger = plan_of(sweep, store), Ledger(store.where)
    for task in plan.tasks[:2]:
        ledger.publish(task.key, {"metrics": {"test/clean_acc": 0.5, "train/loss": 3.0}})
    assert best_cells(read_status(plan.snapshot, ledger)) == [
        "best cells by test/clean_acc:",
        "    50.00 ± 0.00  train.epochs=1",
    ]


def test_ten_are_told_and_a_grid_has_none(store: Store) -> None:
    values: dict[str, list[float | None]] = {str(n): [n / 20, n / 20] for n in range(1, 14)}
    assert len(best_cells(status(store, values, **OPTUNA))) == 11
    assert best_cells(status(store, values)) == []


def test_a_table_never_averages_stopped_trials_and_says_how_many_there_are(store: Store) -> None:
    table = report.tabulate(status(store, VALUES, scheduler="asha"))
    column = "test/clean_acc"
    assert report.text(table, "4", column) == "95.00 (1 of 2, 1 stopped)"
    assert report.text(table, "5", column) == "2 stopped"
    assert table.cells["4", column].stopped == 1
    assert table.cells["4", column].mean == pytest.approx(0.95)
    without = report.tabulate(status(store, {}))
    assert report.text(without, "5", column) == "not run", "a sweep without a scheduler will run them"
