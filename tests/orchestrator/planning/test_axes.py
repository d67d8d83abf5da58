"""An axis lists values of a setting of trials; anything else is refused, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.planning.expansion import Point, expand
from orchestrator.planning.sweep_file import load
from tests.conftest import Opsctl
from trainers import InputError

HEAD = "name: a\nquestion: b?\n"


def points(tmp_path: Path, text: str, *settings: str) -> tuple[Point, ...]:
    file = tmp_path / "a.yaml"
    file.write_text(HEAD + text)
    return expand(load(file, settings), str(file))


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(InputError) as error:
        points(tmp_path, text)
    return str(error.value)


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("grid: {train.optimizer.lr: [0.2]}", "grid: {train.optimizer: [{kind: sgd, lr: 0.2}]}"),
        ("base: {train: {optimizer: {lr: 0.2}}}\ngrid: {seed: [0]}", "base: {train: {optimizer: {kind: sgd, lr: 0.2}}}\ngrid: {seed: [0]}"),
        ("base: {train: {architecture: cct_7_3x1}}\ngrid: {train.optimizer.lr: [0.2]}", "base: {train: {architecture: cct_7_3x1}}\ngrid: {train.optimizer: [{kind: adamw, lr: 0.2}]}"),
        ("base: {train: {optimizer: adamw}}\ngrid: {train: {a: {optimizer: {lr: 0.2}}}}", "base: {train: {optimizer: {kind: adamw, lr: 0.2}}}\ngrid: {seed: [0]}"),
        ("grid: {train.architecture.width: [8]}", "base: {train: {architecture: resnet18}}\ngrid: {train.architecture.width: [8]}"),
        ("grid: {train.augmentations.0.pad: [2]}", "grid: {train.augmentations: [[{kind: flip_crop, pad: 2}]]}"),
        ("base: {data: {poison: {kind: em, generator: {width: 8}}}}\ngrid: {seed: [0]}", "base: {data: {poison: {kind: em, generator: {kind: resnet18, width: 8}}}}\ngrid: {seed: [0]}"),
    ],
)  # fmt: skip
def test_settings_of_a_default_plug_in_need_no_kind(tmp_path: Path, short: str, whole: str) -> None:
    (one,), (other,) = points(tmp_path, short), points(tmp_path, whole)
    assert one.trial == other.trial
    assert one.trial.train.key == other.trial.train.key


def test_a_setting_on_the_command_line_needs_no_kind_either(tmp_path: Path) -> None:
    (point,) = points(tmp_path, "grid: {seed: [0]}", "train.optimizer.lr=0.2")
    assert (point.trial.train.optimizer.kind, point.trial.train.optimizer.lr) == ("sgd", 0.2)
    transformer = ("train.architecture=cct_7_3x1", "train.schedule.floor=0.1")
    (point,) = points(tmp_path, "grid: {seed: [0]}", *transformer)
    assert (point.trial.train.optimizer.kind, point.trial.train.schedule.kind) == ("adamw", "cosine")


def test_a_learning_rate_sweep_can_be_planned(opsctl: Opsctl, tmp_path: Path) -> None:
    (tmp_path / "lr.yaml").write_text(
        "name: lr\nquestion: Which learning rate?\nbase: {train: {epochs: 1}, data: {limit: 100}}\n"
        "grid: {train.optimizer.lr: [1e-3, 1e-2], seed: [0]}\n"
    )
    code, out, err = opsctl("plan", tmp_path / "lr.yaml")
    assert (code, err) == (0, "")
    assert "2 trials to run" in out


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ("train.defense: {off: erm, on: pgd_at, 2026-11-28: trades}", ["off", "on", "2026-11-28"]),
        ("train.optimizer.lr: [1e-3, 0.10, .5]", ["1e-3", "0.10", ".5"]),
        ("train.optimizer.lr: {1e-3: 1e-3, 1e-2: 1e-2}", ["1e-3", "1e-2"]),
        ("train.optimizer.nesterov: [on, off]", ["on", "off"]),
        ("train.optimizer: [{kind: sgd, lr: 1e-3}, adamw]", ["sgd lr=1e-3", "adamw"]),
        ("train: {min: {epochs: 1}, max: {epochs: 9}}", ["min", "max"]),
        ("data.poison: {low: clean, high: ops}", ["low", "high"]),
        ("train.optimizer.lr: {from: 0.1, finetune: 0.01}", ["from", "finetune"]),
        ("train.optimizer.lr: {lo: 0.01, mid: 0.05, hi: 0.1}", ["lo", "mid", "hi"]),
        ("train.epochs: {n: 1, base: 2}", ["n", "base"]),
        ("train.optimizer.lr: {to: 0.1, maximum: 0.2}", ["to", "maximum"]),
    ],
)
def test_labels_keep_their_spelling(tmp_path: Path, axis: str, labels: list[str]) -> None:
    assert [next(iter(p.labels.values())) for p in points(tmp_path, f"grid: {{{axis}}}")] == labels


def test_numbers_are_equal_whatever_their_spelling(tmp_path: Path) -> None:
    found = points(
        tmp_path, "grid: {train.optimizer.lr: [1e-3, 0.001, 5e-1]}\nskip: [{train.optimizer.lr: 0.5}]"
    )
    keys = {point.trial.train.key for point in found}
    assert [p.trial.train.optimizer.lr for p in found] == [1e-3, 1e-3]
    assert len(keys) == 1
    assert all(type(p.trial.train.optimizer.lr) is float for p in found)


def test_a_report_may_spell_labels_as_the_grid_does(tmp_path: Path) -> None:
    report = "report: {compare: [[1, 2]], claims: [{says: x, lower: {train.epochs: 1}, higher: {train.epochs: 2}}]}"
    file = tmp_path / "a.yaml"
    file.write_text(f"{HEAD}grid: {{train.epochs: [1, 2]}}\n{report}")
    sweep = load(file)
    assert sweep.report.compare == (("1", "2"),)
    assert sweep.report.claims[0].lower == {"train.epochs": "1"}


@pytest.mark.parametrize(
    ("values", "instead"),
    [
        ("{min: 1e-4, max: 0.1, log: true}", "[0.0001, 0.001, 0.01, 0.1]"),
        ("{distribution: log_uniform_values, min: 1e-4, max: 0.1}", "[0.0001, 0.001, 0.01, 0.1]"),
        ("{min: 0.1, max: 0.4}", "[0.1, 0.2, 0.3, 0.4]"),
        ("{low: 1, high: 4}", "[1, 2, 3, 4]"),
        ("{min: 0.1, max: 0.4, steps: 4}", "[0.1, 0.2, 0.3, 0.4]"),
        ("{low: 1, high: 5, count: 5}", "[1, 2, 3, 4, 5]"),
        ("{from: 0.1, to: 0.4, num: 4}", "[0.1, 0.2, 0.3, 0.4]"),
        ("{minimum: 1, maximum: 4}", "[1, 2, 3, 4]"),
        ("{lo: 1, hi: 4, step: 1}", "[1, 2, 3, 4]"),
        ("{start: 1, end: 4, samples: 4}", "[1, 2, 3, 4]"),
        ("{log_min: -4, log_max: -1, base: 10}", "[0.0001, 0.001, 0.01, 0.1]"),
        ("{values: [0.1, 1e-2]}", "[0.1, 1e-2]"),
        ("{choices: [0.1, 0.2]}", "[0.1, 0.2]"),
        ("{value: 0.1}", "[0.1]"),
        ("{grid_search: [0.1]}", "[0.1]"),
        ("{distribution: normal, mu: 0, sigma: 1}", "[1, 2, 4]"),
        ("'tune.loguniform(1e-4, 1e-1)'", "[0.0001, 0.001, 0.01, 0.1]"),
        ("tune.loguniform(1e-4, 1e-1)", "[1, 2, 4]"),
        ("['tune.choice([0.1, 0.2])']", "[0.1, 0.2]"),
        ("range(3)", "[0, 1, 2]"),
    ],
)
def test_a_range_is_not_a_list_of_values(tmp_path: Path, values: str, instead: str) -> None:
    found = refused(tmp_path, f"grid: {{train.optimizer.lr: {values}}}")
    assert "a.yaml: grid: train.optimizer.lr: " in found
    assert f"an axis lists its values: write train.optimizer.lr: {instead}" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {train.defence: [erm]}\nreport: {rows: train.defense}", "train: unknown field: 'defence'; did you mean 'defense'?"),
        ("grid: {train.defence: [erm]}\nskip: [{train.defense: erm}]", "train: unknown field: 'defence'; did you mean 'defense'?"),
        ("grid: {train.lr: [0.1]}", "(at train.lr=0.1): train: unknown field: 'lr'; did you mean `train.optimizer.lr`?"),
        ("grid: {train.batch: [8]}", "unknown field: 'batch'; did you mean 'batch_size'?"),
        ("grid: {train.model: [lenet5]}", "unknown field: 'model'; did you mean 'architecture'?"),
        ("grid: {epochs: [8]}", "unknown field: 'epochs'; did you mean `train.epochs` or"),
        ("grid: {data.eps: [8/255]}", "unknown field: 'eps'; did you mean `data.poison.eps`"),
        ("grid: {train.architecture.wdth: [8]}", "train.architecture: unknown field: 'wdth'; did you mean 'width'"),
        ("grid: {base.train.epochs: [8]}", "an axis is a path inside `base`: leave `base.` out"),
        ("grid: {run.gpus_per_trial: [1]}", "`run` says how a sweep is run, which no axis varies"),
        ("grid: {train: {epochs: [1, 2]}}", "for an axis over it write `train.epochs: [1, 2]`"),
        ("grid: {train.optimizer: {lr: [1e-3]}}", "for an axis over it write `train.optimizer.lr: [1e-3]`"),
    ],
)  # fmt: skip
def test_an_unknown_axis_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params: {seed: [0]}", "unknown field: 'params'; did you mean 'grid'?"),
        ("parameters: {seed: [0]}", "unknown field: 'parameters'; did you mean 'grid'?"),
        ("dataset: cifar10\ngrid: {seed: [0]}", "unknown field: 'dataset'; did you mean `base: {data: ...}`"),
        ("epochs: 3\ngrid: {seed: [0]}", "did you mean `base: {train: {epochs: ...}}` or"),
        ("run: {gpus: 1}\ngrid: {seed: [0]}", "run: unknown field: 'gpus'; did you mean 'gpus_per_trial'?"),
        ("run: {cpus: 1}\ngrid: {seed: [0]}", "run: unknown field: 'cpus'; did you mean 'cpus_per_trial'?"),
        ("run: 3\ngrid: {seed: [0]}", "run: expected a mapping with some of the fields cpus_per_trial, "),
        ("base: {dataset: cifar10}\ngrid: {seed: [0]}", "unknown field: 'dataset'; did you mean 'data'?"),
        ("base: {data: {poison: {eps: 8/255}}}\ngrid: {seed: [0]}", "this poison needs `kind`, one of: ar, dune, em, "),
    ],
)  # fmt: skip
def test_keywords_of_other_tools_get_advice(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)
