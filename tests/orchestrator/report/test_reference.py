"""Published figures are found beside a sweep and are complete; an error for a wrong name lists the known ones."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator.planning.snapshot import METRIC
from orchestrator.report.reference import find, read
from orchestrator.report.table import _published_row
from tests.conftest import ROOT
from trainers.errors import InputError

FOLDER = ROOT / "sweeps" / "reference"
CELLS = {
    "table1": (5, 3),
    "table2": (6, 3),
    "table3": (6, 1),
    "table4": (2, 2),
    "table5": (9, 4),
    "table6": (4, 5),
    "table_a": (4, 1),
    "table_b": (1, 1),
    "table_c": (3, 2),
    "table_d": (3, 3),
}


def test_the_papers_tables_are_complete() -> None:
    content = json.loads((FOLDER / "ops_paper.json").read_text())
    assert content["units"] == "percent"
    assert set(content["tables"]) == set(CELLS)
    for name, (rows, columns) in CELLS.items():
        cells = content["tables"][name]["cells"]
        places = [(cell["row"], cell["column"]) for cell in cells]
        assert len(set(places)) == len(places) == rows * columns
        assert [len({place[i] for place in places}) for i in (0, 1)] == [rows, columns]
        assert all(5 < cell["value"] < 100 for cell in cells)
        assert all((cell["std"] is None) == (cell["runs"] == 1) for cell in cells)
    assert sum(map(len, (table["cells"] for table in content["tables"].values()))) == 119


def test_cells_shared_by_several_tables_are_equal() -> None:
    """ResNet-18 without a strategy appears in six tables."""
    paper = {name: read(FOLDER / "ops_paper.json", name).cells for name in CELLS}
    column = "test/clean_acc"
    clean = [
        paper["table2"]["ResNet-18", "clean"],
        paper["table5"]["Standard", "clean"],
        paper["table6"]["Standard", "0"],
        paper["table_a"]["Clean", column],
    ]
    ops = [
        paper["table2"]["ResNet-18", "ops"],
        paper["table5"]["Standard", "ops"],
        paper["table6"]["Standard", "1"],
        paper["table_a"]["OPS", column],
        paper["table_c"]["100 %", "clean"],
    ]
    assert {one.value for one in clean} == {94.01 / 100}
    assert {one.value for one in ops} == {15.56 / 100}
    assert paper["table2"]["ResNet-18", "em"] == paper["table5"]["Standard", "em"]
    for strategy in ("Mixup", "Cutout", "RandAugment"):
        assert paper["table5"][strategy, "ops"] == paper["table6"][strategy, "1"]
        assert paper["table5"][strategy, "clean"] == paper["table6"][strategy, "0"]
    drawn = paper["table_b"]["RandPix", column]
    assert (drawn.value, drawn.std, drawn.runs) == (pytest.approx(0.5067), pytest.approx(0.1129), 10)
    assert paper["table1"]["shuffled_ops", "ops"].value == pytest.approx(0.7243)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "row", "mean", "worst"),
    [
        ("apbench", 11, 9, "JPEG", 81.23, 68.72),
        ("apbench", 11, 9, "UEraser-max", 88.16, 77.99),
        ("apbench", 11, 9, "AT", 71.71, 14.95),
        ("bridgepure", 7, 9, "D-VAE", 87.90, 83.07),
        ("bridgepure", 7, 9, "AVATAR", 89.20, 87.87),
        ("iss", 3, 12, "JPEG", 81.96, 69.49),
        ("dune", 8, 5, "JPEG", 62.80, 28.88),
    ],
)
def test_tables_of_defenses_have_the_means_and_worst_cases_that_were_worked_out_from_them(
    name: str, rows: int, columns: int, row: str, mean: float, worst: float
) -> None:
    cells = {place: one.value for place, one in read(FOLDER / f"{name}.json", "cifar10").cells.items()}
    poisoned = {place: value for place, value in cells.items() if place[1] != "clean"}
    assert len({place[0] for place in poisoned}) == rows
    assert len({place[1] for place in poisoned}) == columns
    assert len(poisoned) == rows * columns
    values = [100 * value for place, value in poisoned.items() if place[0] == row]
    assert statistics.fmean(values) == pytest.approx(mean, abs=0.006)
    assert min(values) == pytest.approx(worst)


def test_the_strongest_published_poisons_leave_what_their_authors_say() -> None:
    cells = read(FOLDER / "dune.json", "cifar10").cells
    most = {
        poison: max(
            100 * one.value for (row, column), one in cells.items() if column == poison and row != "none"
        )
        for poison in ("em", "rem", "cuda", "sem", "dune")
    }
    assert most == pytest.approx({"em": 89.09, "rem": 87.16, "cuda": 72.02, "sem": 85.82, "dune": 57.49})


@pytest.mark.parametrize(("folder", "found"), [("a", True), ("a/b/c", True), ("a/b/c/d", False)])
def test_a_reference_is_searched_up_to_three_levels_above(tmp_path: Path, folder: str, found: bool) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "reference").mkdir()
    content = {
        "source": "p",
        "units": "number",
        "tables": {"t": {"cells": [{"row": "r", "column": "c", "value": 3}]}},
    }
    (tmp_path / "reference" / "x.json").write_text(json.dumps(content))
    sweep = tmp_path / folder / "sweep.yaml"
    if found:
        assert find("x/t", sweep).cells["r", "c"].value == 3
        (sweep.parent / "reference").mkdir()
        (sweep.parent / "reference" / "x.json").write_text(json.dumps({**content, "source": "nearer"}))
        assert find("x/t", sweep).source == "nearer"
    else:
        with pytest.raises(
            InputError, match=r"no file x.json in .*/a/b/c/d/reference or in a reference/ up to"
        ):
            find("x/t", sweep)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ops_papr/table2",
            "did you mean 'ops_paper'; there are 'apbench', 'bridgepure', 'dune', 'field', 'iss', 'ops_paper'",
        ),
        ("ops_paper/tabel2", "no table 'tabel2'; did you mean 'table2'"),
        ("ops_paper", "'ops_paper' names no table; write ops_paper/TABLE"),
    ],
)
def test_the_error_for_a_wrong_name_lists_the_known_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find(name, ROOT / "sweeps" / "paper" / "table2.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"source": "p", "units": "inches", "tables": {}}',
        '{"source": "p", "units": "percent", "tables": {"t": {"cells": [{"row": "a"}]}}}',
    ],
)
def test_the_error_for_an_invalid_file_says_what_it_must_hold(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"not a file of published figures .* it must hold source, units"):
        read(tmp_path / "x.json", "t")


@pytest.mark.parametrize(
    "file", sorted((ROOT / "sweeps" / "field").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_published_figure_of_the_field_has_a_cell(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    rows, columns = set(sweep["grid"]["train"]), set(sweep["grid"]["data.poison"])
    found = find(sweep["report"]["reference"], file)
    assert found.metric == sweep["report"]["metrics"]["last"]
    assert {row for row, _ in found.cells} <= rows
    assert {column for _, column in found.cells} <= columns


def test_a_published_row_has_no_metric_in_its_label() -> None:
    """`last` of `none` is set beside `none`; a table of metrics alone keeps its own labels."""
    several = SimpleNamespace(
        row_axes=("train", METRIC), column_axis="poison", report={"metrics": {"last": "a"}}
    )
    alone = SimpleNamespace(row_axes=(METRIC,), column_axis="poison", report={"metrics": {"last": "a"}})
    entry: Any = SimpleNamespace(labels={"train": "none", "poison": "em"})
    assert _published_row(several, "none, last", entry) == "none"  # type: ignore[arg-type]
    assert _published_row(alone, "last", entry) == "last"  # type: ignore[arg-type]
