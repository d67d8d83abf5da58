"""Sweep files are parsed safely, and errors name the place of a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.planning.sweep_file import load, set_path
from trainers import InputError
from trainers.yaml_text import MAX_BYTES

GOOD = "name: a\nquestion: b?\ngrid: {seed: [0, 1]}\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "a sweep file is a mapping .* found a list"),
        ("", "a sweep file is a mapping .* found nothing"),
        ("just words", "found a str"),
        ("name: a\nbase:\n\tdata: b\n", r"line 3, column 1: .*YAML takes no tabs"),
        ("name: [a\n", r"line \d, column \d: "),
        ("name: a\nname: b\n", r"line 2, column 1: 'name' is given twice"),
        (LAUGHS, "more than 50000 values after aliases are expanded"),
        ("a: &a [*a]\n", "there is no anchor &a before this alias, or the alias is inside it"),
        ("[" * 5000, "more than 100 levels of nesting"),
        ("name: !!python/object/apply:os.system [ls]\n", "the tag '!!python/object/apply:os.system' is not"),
        ("x" * (MAX_BYTES + 1), "bytes; at most"),
        (GOOD + "basis: {}\n", "unknown field: 'basis'; did you mean 'base'"),
        ("name: a\ngrid: {seed: [0]}\n", "question: this field is missing"),
        (GOOD.replace("name: a", "name: a/b"), "name: expected at most 100 letters"),
        (GOOD + "run: {cpus: 2}\n", "run: unknown field: 'cpus'"),
        (GOOD + "run: {retries: -1}\n", "run.retries: .*greater than or equal to 0, found -1"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_sweep_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(write(tmp_path, text))
    assert str(tmp_path / "sweep.yaml") in str(error.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*nowhere.yaml; the sweeps that ship are in sweeps/"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\xff")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "latin.yaml")


def test_settings_change_the_base_the_grid_and_the_run(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "base: {train: {architecture: wide_resnet}}\n")
    settings = (
        "train.epochs=2",
        "train.architecture.width=4",
        "seed=7",
        "run.retries=0",
        "report.metric=train/loss",
    )
    sweep = load(file, settings)
    assert sweep.base == {"train": {"architecture": {"kind": "wide_resnet", "width": 4}, "epochs": 2}}
    assert sweep.grid == {"seed": [7]}
    assert sweep.run.retries == 0
    assert sweep.report.metric == "train/loss"


def test_settings_change_the_probes(tmp_path: Path) -> None:
    sweep = load(write(tmp_path, GOOD + "probes: [loss_surface]\n"), ("probes.0.points=3",))
    assert [spec.probe.points for spec in sweep.probes] == [3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("epochs",), "--set epochs: write path=value"),
        (("=3",), "--set =3: write path=value"),
        (("train.epochs=[1",), r"--set train.epochs=\[1"),
        (
            ("base.train.epochs=1",),
            "--set base.train.epochs: paths are those of a trial, .*: write train.epochs=",
        ),
        (("grid.seed=[0]",), "--set grid.seed: .*: write seed="),
        (("train.epochs=1", "seed=0", "train.epochs=2"), "--set train.epochs=2: train.epochs is set twice"),
    ],
)
def test_an_invalid_setting_is_refused(tmp_path: Path, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, GOOD), settings)


@pytest.mark.parametrize(
    ("before", "path", "value", "after"),
    [
        ({}, "a.b", 1, {"a": {"b": 1}}),
        ({"a": "x"}, "a.b", 1, {"a": {"kind": "x", "b": 1}}),
        ({"a": [{"b": 0}, "y"]}, "a.1.b", 1, {"a": [{"b": 0}, {"kind": "y", "b": 1}]}),
        ({"a": {"b": 1, "c": {"d": 2}}}, "a", {"c": {"e": 3}}, {"a": {"b": 1, "c": {"d": 2, "e": 3}}}),
        ({"a": {"kind": "x", "b": 1}}, "a", {"kind": "y"}, {"a": {"kind": "y"}}),
        ({"a": {"kind": "x", "b": 1}}, "a", "y", {"a": "y"}),
    ],
)
def test_paths_are_set_and_mappings_merged(before: Any, path: str, value: Any, after: Any) -> None:
    set_path(before, path, value, "test")
    assert before == after


def test_a_setting_reaches_below_an_axis(tmp_path: Path) -> None:
    axis = "grid: {train: {a: {epochs: 3}, b: {batch_size: 4}}, train.architecture: [lenet5]}\n"
    sweep = load(write(tmp_path, GOOD.split("grid")[0] + axis), ("train.epochs=2",))
    assert sweep.grid["train"] == {"a": {"epochs": 2}, "b": {"batch_size": 4, "epochs": 2}}
    axis = "grid: {data.poison: [em, {kind: em, steps: 3}]}\n"
    sweep = load(write(tmp_path, GOOD.split("grid")[0] + axis), ("data.poison.eps=1/2",))
    assert sweep.grid["data.poison"] == [
        {"kind": "em", "eps": "1/2"},
        {"kind": "em", "steps": 3, "eps": "1/2"},
    ]


def test_aliases_are_copies_and_merge_keys_merge(tmp_path: Path) -> None:
    base = (
        "base: {train: {architecture: &net {kind: resnet18}}, data: {poison: {kind: em, generator: *net}}}\n"
    )
    sweep = load(write(tmp_path, GOOD + base), ("train.architecture.width=16",))
    assert sweep.base["data"]["poison"]["generator"] == {"kind": "resnet18"}
    merged = "base:\n  a: &a {x: 1, y: 2}\n  b:\n    <<: *a\n    y: 3\n"
    assert load(write(tmp_path, GOOD + merged)).base["b"] == {"x": 1, "y": 3}


def test_an_empty_base_can_be_set_and_an_invalid_one_is_an_error(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD + "base:\n"), ("train.epochs=2",)).base == {"train": {"epochs": 2}}
    with pytest.raises(InputError, match="nothing to set at"):
        load(write(tmp_path, GOOD + "base: 3\n"), ("train.epochs=2",))


@pytest.mark.parametrize(
    ("before", "path"),
    [({"a": 1}, "a.b"), ({"a": []}, "a.0.b"), ({"a": ["x"]}, "a.x.b"), ({"a": [1]}, "a.²")],
)
def test_a_setting_below_a_number_is_an_error(before: Any, path: str) -> None:
    with pytest.raises(InputError, match="there is nothing to set at"):
        set_path(before, path, 1, "test")
