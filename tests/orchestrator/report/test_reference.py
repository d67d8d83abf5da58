"""Published figures are found beside a sweep, are whole, and a name that is wrong is answered with those there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.report.reference import find, read
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


def test_the_papers_tables_are_whole() -> None:
    told = json.loads((FOLDER / "ops_paper.json").read_text())
    assert told["units"] == "percent"
    assert set(told["tables"]) == set(CELLS)
    for name, (rows, columns) in CELLS.items():
        cells = told["tables"][name]["cells"]
        places = [(cell["row"], cell["column"]) for cell in cells]
        assert len(set(places)) == len(places) == rows * columns
        assert [len({place[i] for place in places}) for i in (0, 1)] == [rows, columns]
        assert all(5 < cell["value"] < 100 for cell in cells)
        assert all((cell["std"] is None) == (cell["runs"] == 1) for cell in cells)
    assert sum(map(len, (table["cells"] for table in told["tables"].values()))) == 119


def test_cells_that_tables_share_are_equal() -> None:
    """ResNet-18 without a strategy stands in six tables."""
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


def test_the_leaderboard_is_whole() -> None:
    cells = read(FOLDER / "apbench.json", "cifar10").cells
    assert len(cells) == 9 * 11
    assert {row for row, _ in cells} == {"dc", "em", "rem", "hypo", "ntga", "tap", "lsp", "ar", "ops"}
    assert all(0.05 < one.value < 0.97 for one in cells.values())
    assert cells["em", "linf_at_8"].value == pytest.approx(0.8251)


@pytest.mark.parametrize(("folder", "found"), [("a", True), ("a/b/c", True), ("a/b/c/d", False)])
def test_a_reference_is_looked_for_up_to_three_levels_above(tmp_path: Path, folder: str, found: bool) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "reference").mkdir()
    told = {
        "source": "p",
        "units": "number",
        "tables": {"t": {"cells": [{"row": "r", "column": "c", "value": 3}]}},
    }
    (tmp_path / "reference" / "x.json").write_text(json.dumps(told))
    sweep = tmp_path / folder / "sweep.yaml"
    if found:
        assert find("x/t", sweep).cells["r", "c"].value == 3
        (sweep.parent / "reference").mkdir()
        (sweep.parent / "reference" / "x.json").write_text(json.dumps({**told, "source": "nearer"}))
        assert find("x/t", sweep).source == "nearer"
    else:
        with pytest.raises(
            InputError, match=r"no file x.json in .*/a/b/c/d/reference or in a reference/ up to"
        ):
            find("x/t", sweep)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ops_papr/table2", "did you mean 'ops_paper'; there is reference 'apbench', 'ops_paper'"),
        ("ops_paper/tabel2", "no table 'tabel2'; did you mean 'table2'"),
        ("ops_paper", "'ops_paper' names no table; write ops_paper/TABLE"),
    ],
)
def test_a_wrong_name_is_answered_with_those_there_are(name: str, message: str) -> None:
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
def test_a_file_that_is_none_says_what_it_should_hold(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=r"not a file of published figures .* it holds source, units"):
        read(tmp_path / "x.json", "t")
