"""A report is the mean and the sample's deviation over seeds, of what is done, and never of different settings."""

from __future__ import annotations

import csv
import io
import json
import statistics
from typing import Any

import pytest

from orchestrator import report
from orchestrator.depots.results import Ledger
from orchestrator.standing import look
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

GRID = {"data.poison": ["clean", "ops"], "train.epochs": [1, 2], "seed": [0, 1, 2]}


def table(store: Store, accs: list[float | None], **changes: Any) -> report.Table:
    plan, ledger = plan_of(tiny(grid=GRID, **changes), store), Ledger(store.where)
    for task, acc in zip(plan.tasks, accs, strict=False):
        if acc is None:
            ledger.fail(task.key, {"error": "Boom: no", "traceback": None})
        else:
            ledger.publish(task.key, {"metrics": {"test/clean_acc": acc, "train/loss": 1 - acc}})
    return report.tabulate(look(plan.outline, ledger))


def test_cells_are_means_and_deviations_over_seeds(store: Store) -> None:
    accs = [0.1, 0.2, 0.6, 0.4, 0.4, 0.4, 0.9]
    found = table(store, accs)
    assert found.rows == ("clean", "ops")
    assert found.columns == ("1", "2")
    cell = found.cells["clean", "1"]
    assert cell.mean == pytest.approx(statistics.fmean(accs[:3]))
    assert cell.std == pytest.approx(statistics.stdev(accs[:3]))
    assert [report.text(found, *place) for place in found.cells] == [
        "30.00 ± 26.46",
        "40.00 ± 0.00",
        "90.00 (1 of 3)",
        "-",
    ]


def test_failures_show(store: Store) -> None:
    found = table(store, [None, None, None, 0.5, None, 0.7])
    assert report.text(found, "clean", "1") == "3 failed"
    assert found.cells["clean", "2"].failed == 1
    assert report.text(found, "clean", "2") == "60.00 ± 14.14 (2 of 3)"


def test_rows_and_columns_are_as_the_sweep_says(store: Store) -> None:
    found = table(
        store, [0.1] * 12, report={"rows": "train.epochs", "columns": "data.poison", "metric": "train/loss"}
    )
    assert (found.rows, found.columns) == (("1", "2"), ("clean", "ops"))
    assert report.text(found, "1", "ops") == "0.90 ± 0.00"
    assert report.caption(found) == "train/loss, mean ± std over 3 seeds"


def test_written_forms_hold_the_same_numbers(store: Store) -> None:
    found = table(store, [0.1, 0.2, 0.6, 0.4])
    rows = list(csv.DictReader(io.StringIO(report.comma_separated(found))))
    cells = json.loads(report.as_json(found))["cells"]
    assert [float(r["mean"]) for r in rows if r["mean"]] == [
        c["mean"] for c in cells if c["mean"] is not None
    ]
    assert {r["row"] for r in rows} == {"clean", "ops"}
    lines = report.markdown(found).splitlines()
    assert lines[2] == "| data.poison | 1 | 2 |"
    assert lines[3] == "| --- | ---: | ---: |"
    assert lines[4] == "| clean | 30.00 ± 26.46 | 40.00 (1 of 3) |"
    assert lines[-1] == "test/clean_acc in %, mean ± std over 3 seeds"


def test_one_axis_makes_one_column(store: Store) -> None:
    plan, ledger = plan_of(tiny(), store), Ledger(store.where)
    found = report.tabulate(look(plan.outline, ledger))
    assert found.rows == ("clean", "ops")
    assert found.columns == ("test/clean_acc",)
