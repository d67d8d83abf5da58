"""`python -m trainers` needs torch and pydantic, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from trainers import Images, InputError, TrainSpec
from trainers.__main__ import main
from trainers.attacks import auto_attack
from trainers.spec import plain
from trainers.trial import Trial

ABSENT = (
    "ray",
    "mlflow",
    "typer",
    "rich",
    "pyarrow",
    "sklearn",
    "torchvision",
    "timm",
    "PIL",
    "yaml",
)


@pytest.fixture
def folder(images: Images, tmp_path: Path) -> Path:
    images.save(tmp_path / "train.pt")
    images.save(tmp_path / "test.pt")
    return tmp_path


def bare(to: Path, absent: Sequence[str] = ABSENT) -> Path:
    """A folder of links to all installed packages but those that a bare machine lacks."""
    site = Path(torch.__file__).parent.parent
    to.mkdir()
    for entry in site.iterdir():
        if not entry.name.startswith(tuple(absent)) and not entry.name.startswith(
            ("_", "opsctl", "unlearnable_opsctl")
        ):
            (to / entry.name).symlink_to(entry)
    return to


def test_it_runs_without_ray_mlflow_and_typer(folder: Path) -> None:
    site = bare(folder / "site")
    code = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    found = subprocess.run(
        [sys.executable, "-S", "-c", code, "ray", "mlflow", "typer", "yaml", "torch"],
        capture_output=True, text=True, env=env, cwd=folder, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "['torch']"
    (folder / "spec.json").write_text('{"train": {"architecture": "lenet5", "epochs": 2}, "seed": 3}')
    run = subprocess.run(
        [sys.executable, "-S", "-m", "trainers", "spec.json", "--data", ".", "--weights", "w.pt"],
        capture_output=True, text=True, env=env, cwd=folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *rows, record = (json.loads(line) for line in run.stdout.splitlines())
    assert [row["epoch"] for row in rows] == [1, 2]
    assert record["history"] == rows
    trial = Trial.parse(record["spec"], "record")
    assert trial == Trial(train=TrainSpec.parse({"architecture": "lenet5", "epochs": 2}, "test"), seed=3)
    weights = torch.load(folder / "w.pt", weights_only=True)
    assert sum(w.numel() for w in weights.values()) == record["parameters"]


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("train: {architecture: lenet6}", [], "spec.yaml: train.architecture: unknown architecture 'lenet6'; did you mean 'lenet5'"),
        ("trian: {}", [], "unknown field: 'trian'; did you mean 'train'"),
        ("a: [", [], "spec.yaml, line 1, column 5: while parsing"),
        ("train: !!timestamp x", [], "the tag '!!timestamp' is not supported"),
        ("seed: 0x" + "F" * 5000, [], "a whole number is at most 9223372036854775807"),
        ("{\"seed\": 1" + "0" * 30 + "}", [], "is more than can ever work"),
        ("train: {epochs: 1}", ["--device", "tpu9"], "--device tpu9: "),
        ("train: {epochs: 1}", ["--data", "nowhere"], "there is no nowhere/train.pt"),
        ("train: {epochs: 1}", ["--weights", "no/w.pt"], "--weights no/w.pt: the folder no is missing or not writable"),
        ("train: {epochs: 1}", ["--checkpoint", "no/c.pt"], "--checkpoint no/c.pt: the folder no is missing"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    spec: str,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    Path("spec.yaml").write_text(spec)
    assert main(["spec.yaml", "--data", ".", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_failed_training_is_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = {"architecture": "lenet5", "epochs": 30, "optimizer": {"kind": "sgd", "lr": 1e6}}
    (folder / "spec.json").write_text(json.dumps({"train": train}))
    assert main([str(folder / "spec.json"), "--data", str(folder)]) == 1
    assert "not finite in epoch" in capsys.readouterr().err


def test_a_limit_is_kept_and_missing_requirements_are_reported_before_the_training(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TrainSpec.parse({"architecture": "lenet5", "epochs": 1}, "test")
    trial = Trial.parse({"train": plain(train), "evaluation": {"limit": 8}}, "test")
    _, record = trial.run(images, images, device=torch.device("cpu"))
    assert record["metrics"] == trial.run(images, images.subset(8), device=torch.device("cpu"))[1]["metrics"]
    monkeypatch.setattr(auto_attack, "find_spec", lambda _: None)
    rows: list[dict[str, float]] = []
    with pytest.raises(InputError, match="auto_attack needs a package: pip install pyautoattack"):
        Trial.parse({"train": plain(train), "evaluation": {"attacks": ["auto_attack"]}}, "test").run(
            images, images, device=torch.device("cpu"), report=rows.append
        )
    assert rows == []


def test_sets_that_do_not_match_are_refused(images: Images) -> None:
    other = Images(images.x[:, :1], images.y, 4)
    with pytest.raises(
        InputError, match=r"training images are \(3, 32, 32\) in 4 classes, test images \(1, 32, 32\)"
    ):
        Trial().run(images, other, device=torch.device("cpu"))
