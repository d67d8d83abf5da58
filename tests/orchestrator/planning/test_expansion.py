"""A sweep is the product of its axes: every point once, valid, and with distinct labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.axes import label
from orchestrator.planning.expansion import Point, expand, resolved_report
from orchestrator.planning.spec import SweepSpec
from orchestrator.planning.sweep_file import load
from tests.conftest import ROOT
from trainers import InputError


def points(grid: Any, **rest: Any) -> tuple[Point, ...]:
    return expand(SweepSpec.parse({"name": "a", "question": "b?", "grid": grid, **rest}, "a.yaml"), "a.yaml")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_the_product_is_complete_and_in_order(a: int, b: int, c: int) -> None:
    found = points(
        {
            "train.epochs": list(range(1, a + 1)),
            "train.batch_size": list(range(1, b + 1)),
            "seed": list(range(c)),
        }
    )
    triples = [(p.trial.train.epochs, p.trial.train.batch_size, p.trial.seed) for p in found]
    assert triples == [(i, j, k) for i in range(1, a + 1) for j in range(1, b + 1) for k in range(c)]


def test_a_path_reaches_into_a_plug_in_and_a_chain() -> None:
    base = {"train": {"architecture": "wide_resnet"}, "data": {"poison": ["em", "ops"]}}
    found = points({"train.architecture.width": [2, 4], "data.poison.0.eps": ["4/255", "8/255"]}, base=base)
    assert [p.name for p in found][1] == "train.architecture.width=2, data.poison.0.eps=8/255"
    assert found[2].trial.train.architecture.width == 4  # type: ignore[attr-defined]
    assert str(found[0].trial.data.poison[0].eps) == "4/255"  # type: ignore[attr-defined]
    assert [p.kind for p in found[0].trial.data.poison] == ["em", "ops"]


def test_values_may_have_labels_of_their_own() -> None:
    found = points(
        {"train": {"short": {"epochs": 1}, "long": {"epochs": 9}}}, base={"train": {"batch_size": 7}}
    )
    assert [(p.labels["train"], p.trial.train.epochs, p.trial.train.batch_size) for p in found] == [
        ("short", 1, 7),
        ("long", 9, 7),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("ops", "ops"),
        (True, "true"),
        (None, "none"),
        (["em", "ops"], "em+ops"),
        ([], "none"),
        ({"kind": "resnet18", "width": 16}, "resnet18 width=16"),
        ({"kind": "pgd_at", "budget": {"norm": "L2", "eps": "1/2"}}, "pgd_at budget=norm=L2 eps=1/2"),
    ],
)
def test_labels_are_readable(value: Any, text: str) -> None:
    assert label(value) == text


def test_skip_leaves_out_the_named_points() -> None:
    grid = {"data.poison": ["clean", "ops"], "seed": [0, 1, 2]}
    found = points(grid, skip=[{"data.poison": "clean", "seed": [1, 2]}])
    assert [p.name for p in found] == [
        "data.poison=clean, seed=0",
        *(f"data.poison=ops, seed={s}" for s in range(3)),
    ]


@pytest.mark.parametrize(
    ("grid", "rest", "message"),
    [
        ({}, {}, "the grid is empty; write at least one axis"),
        ({"seed": []}, {}, "seed: this axis has no values"),
        ({"seed": 3}, {}, r"seed: an axis is a list of values, found 3; write \[3\]"),
        ({"seed": [0, 0]}, {}, "seed: '0' stands twice"),
        ({"train.epoch": [1]}, {}, r"\(at train.epoch=1\): train: unknown field: 'epoch'; did you mean 'epochs'"),
        ({"tain.epochs": [1]}, {}, "unknown field: 'tain'; did you mean 'train'"),
        ({"train.defense": ["pgd"]}, {}, "unknown defense 'pgd'; did you mean 'pgd_at'"),
        ({"train.defense": ["erm"], "train.defense.steps": [1]}, {}, "'train.defense.steps' lies inside axis 'train.defense'"),
        ({"data.poison": ["ops", ["ops"]]}, {}, "data.poison: 'ops' stands twice"),
        ({"seed": [0]}, {"skip": [{"seed": 0}]}, "every point of the grid is skipped"),
        ({"seed": [0]}, {"skip": [{"seed": 1}]}, "leaves nothing out; is it misspelt"),
        ({"seed": [0]}, {"skip": [{"sed": 0}]}, "'sed' is not an axis of the grid; did you mean 'seed'"),
        ({"seed": [0]}, {"report": {"rows": "train.epochs"}}, "'train.epochs' is not an axis of the grid"),
        ({"data.poison": ["ops"]}, {"report": {"rows": ["data.poison", "data.poison"]}}, "'data.poison' is named twice"),
        ({"data.poison": ["ops"]}, {"report": {"rows": "data.poison", "columns": "data.poison"}}, "is named twice; leave"),
        ({"train.defense.budget.eps": [0.03]}, {"base": {"train": {"defense": "pgd_at"}}}, "a budget is a fraction: write `8/255`"),
    ],
)  # fmt: skip
def test_an_invalid_axis_is_an_error(grid: Any, rest: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        points(grid, **rest)
    assert str(error.value).startswith("a.yaml")


def test_skip_accepts_a_chain_or_several_values() -> None:
    grid = {"data.poison": ["clean", "ops", "em", ["em", "ops"]]}
    kinds = [p.labels["data.poison"] for p in points(grid, skip=[{"data.poison": ["em", "ops"]}])]
    assert kinds == ["clean", "ops", "em"]
    kinds = [p.labels["data.poison"] for p in points(grid, skip=[{"data.poison": ["em", "clean"]}])]
    assert kinds == ["ops", "em+ops"]


def test_a_huge_grid_is_refused_before_it_is_expanded() -> None:
    grid = {
        "seed": list(range(1000)),
        "train.epochs": list(range(1, 101)),
        "train.no such field": list(range(1000)),
    }
    with pytest.raises(InputError, match=r"100,000,000 points, 1000 \(seed\) x 100 .*the limit is 20,000"):
        points(grid)
    assert len(points({"seed": list(range(30))}, run={"max_points": 30})) == 30


SHIPPED = sorted((ROOT / "sweeps").rglob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_every_shipped_sweep_is_valid_and_asks_a_question(file: Path) -> None:
    sweep = load(file)
    assert sweep.name in (file.stem, f"{file.parent.name}_{file.stem}")
    assert sweep.question.endswith("?")
    assert len(expand(sweep, str(file))) > 1


def test_there_are_shipped_sweeps() -> None:
    assert {"quickstart.yaml", "width.yaml"} <= {file.name for file in SHIPPED}


def test_a_report_accepts_numbers_in_any_spelling_as_skip_does(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "name: a\nquestion: b?\n"
        "grid: {seed: [0], data.poison: [clean, ops], train.optimizer.lr: [1e-2, 0.10]}\n"
        "report: {rows: data.poison, columns: train.optimizer.lr, compare: [[0.01, 0.1]], claims: [{says: x, "
        "lower: {train.optimizer.lr: 0.010}, higher: {train.optimizer.lr: 1e-1}}, "
        "{says: y, lower: {data.poison: ops}, higher: {data.poison: clean}, where: {train.optimizer.lr: [0.01, 0.2]}}]}"
    )
    report = resolved_report(load(file), str(file))
    assert report.compare == (("1e-2", "0.10"),)
    assert (report.claims[0].lower, report.claims[0].higher) == (
        {"train.optimizer.lr": "1e-2"},
        {"train.optimizer.lr": "0.10"},
    )
    assert report.claims[1].where == {"train.optimizer.lr": ("1e-2", "0.2")}, (
        "values that are not labels are kept"
    )
    assert report.claims[1].lower == {"data.poison": "ops"}
