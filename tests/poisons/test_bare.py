"""`python -m poisons` needs torch, pyarrow and pydantic, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from poisons import DataSpec, Store
from poisons.__main__ import main
from tests.conftest import ROOT
from tests.trainers.test_bare import ABSENT, bare
from trainers import Images

NEEDED = {"pyarrow"}


@pytest.fixture
def folder(images: Images, tmp_path: Path) -> Path:
    images.save(tmp_path / "train.pt")
    images.save(tmp_path / "test.pt")
    source = {"kind": "tensors", "train": "train.pt", "test": "test.pt"}
    (tmp_path / "spec.json").write_text(json.dumps({"source": source, "poison": "ops"}))
    return tmp_path


def test_it_runs_without_ray_mlflow_and_typer(folder: Path, images: Images) -> None:
    site = bare(folder / "site", [name for name in ABSENT if name not in NEEDED])
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    run = subprocess.run(
        [sys.executable, "-S", "-m", "poisons", "spec.json", "--store", "store", "--save", "p.pt"],
        capture_output=True, text=True, env=env, cwd=folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout.splitlines()[-1])
    assert len(record["facts"]["ops"]["pixels"]) == 4
    spec = DataSpec.parse(record["spec"], "record")
    poisoned = Store(folder / "store").load(spec)
    assert poisoned is not None
    assert torch.equal(poisoned.x, Images.load(folder / "p.pt").x)
    assert (poisoned.x != images.x).any(1).flatten(1).sum(1).max() == 1
    assert not set(record["environment"]["versions"]) & set(ABSENT) - NEEDED


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("poison: op", [], "spec.yaml: poison.0: unknown poison 'op'; did you mean 'ops'"),
        ("poisson: ops", [], "unknown field: 'poisson'; did you mean 'poison'"),
        ("poison: ops", ["--device", "cuda:77"], "--device cuda:77"),
        ("poison: ops\nlimit: 30", ["--save", "nowhere/p.pt"], "there is no folder nowhere"),
        ("source: {kind: tensors, train: a.pt, test: b.pt}", [], "no file at a.pt"),
        ("source: {kind: tensors, train: '*.pt', test: train.pt}", [], "is one local file for each split"),
        ("source: {kind: tensors, train: spec.yaml, test: train.pt}", [], "holds no images"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    spec: str, options: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    (folder / "spec.yaml").write_text(spec)
    assert main(["spec.yaml", "--store", "store", *options]) == 2
    assert message in capsys.readouterr().err
