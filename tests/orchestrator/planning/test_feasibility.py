"""The plan refuses impossible settings at once, before a machine fails hours later."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.submit import prepare
from orchestrator.planning import resources
from orchestrator.planning.caveats import warnings
from orchestrator.planning.resources import lacking, lacking_here, local_resources
from orchestrator.planning.spec import RunSpec
from poisons import Store
from tests.conftest import Opsctl
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny, write
from trainers import InputError
from trainers.numerical_platform import FLAGS

DIGITS = 1442  # training images


def training(**changes: Any) -> dict[str, Any]:
    return tiny(base={"train": {**TRAIN, **changes}}, grid={"seed": [0]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 10**12}, "train: epochs: 1,000,000,000,000 is more than can ever work"),
        ({"epochs": 1e12}, "train: epochs: 1,000,000,000,000 is more than can ever work"),
        ({"batch_size": 10**9}, "train: batch_size: 1,000,000,000 is more than can ever work"),
        ({"batch_size": DIGITS + 1}, f"train.batch_size: 1,443 is larger than the training set, which has 1,442 images; write at most {DIGITS}"),
        ({"architecture": {"kind": "resnet18", "width": 10**9}}, "train.architecture: width: 1,000,000,000 is more"),
        ({"architecture": {"kind": "resnet18", "width": 10**6}}, "train.architecture.width: 1,000,000 makes a resnet18 of"),
        ({"architecture": {"kind": "resnet18", "width": 20_000}}, "train.architecture.width: 20,000 makes a resnet18 of 1e[+]12 weights, which fits no device; write a smaller width"),
        ({"architecture": {"kind": "wide_resnet", "depth": 10**6, "width": 1}}, "train.architecture.depth: 1,000,000 makes a wide_resnet of more weights than can be counted"),
        ({"defense": {"kind": "pgd_at", "steps": 10**9}}, "train.defense: steps: 1,000,000,000 is more than can ever work"),
    ],
)  # fmt: skip
def test_a_plan_refuses_impossible_settings(store: Store, change: dict[str, Any], message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InputError, match=rf"test \(at seed=0\): {message}"):
        plan_of(training(**change), store)
    assert time.monotonic() - begun < 60, "nothing that large was built"


def test_the_network_of_a_poison_and_a_seed_are_checked_too(store: Store) -> None:
    em = {"kind": "em", "generator": {"kind": "resnet18", "width": 10**6}}
    with pytest.raises(InputError, match=r"data\.poison\.0.generator.width: 1,000,000 makes a resnet18"):
        plan_of(tiny(grid={"data.poison": [em]}), store)
    with pytest.raises(InputError, match="seed: 9,223,372,036,854,775,808 is more than can ever work"):
        plan_of(tiny(grid={"seed": [2**63]}), store)


def test_large_but_possible_settings_are_planned(store: Store) -> None:
    assert plan_of(training(batch_size=DIGITS), store).most == 1
    assert plan_of(training(architecture={"kind": "resnet18", "width": 512}), store).most == 1
    assert plan_of(tiny(grid={"seed": [2**63 - 1, -5]}), store).most == 2


def test_a_batch_larger_than_the_subset_gives_a_warning(store: Store) -> None:
    plan = plan_of(tiny(base={"data": {"limit": 20}, "train": TRAIN}), store)
    assert warnings(plan) == [
        "train.batch_size 32 is larger than data.limit 20: each step takes all of the images"
    ]


def test_a_sweep_is_checked_before_it_is_submitted(tmp_path: Path) -> None:
    file = write(tmp_path, training(architecture={"kind": "resnet18", "width": 10**6}))
    with pytest.raises(InputError, match="which fits no device"):
        prepare(file, store="s3://bucket/opsctl", settings=())


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"gpus_per_trial": 1000}, "run.gpus_per_trial: no machine has 1,000 GPUs; write at most 64"),
        ({"cpus_per_trial": 10_000}, "run.cpus_per_trial: no machine has 10,000 CPUs; write at most 4,096"),
        (
            {"gpus_per_trial": 1.5},
            "1.5 is neither a share of one GPU, such as 0.25, nor a number of whole GPUs",
        ),
        ({"retries": 10**12}, "run: retries: 1,000,000,000,000 is more than can ever work"),
    ],
)
def test_requests_that_no_machine_can_meet_are_refused(
    store: Store, run: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(tiny(run=run), store)


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        ({}, None),
        ({"gpus_per_trial": "auto"}, None),
        ({"gpus_per_trial": 0.5, "cpus_per_trial": 4}, None),
        ({"gpus_per_trial": 2}, "2 GPU asked for, but no machine has more than 1; see --gpus-per-trial"),
        ({"cpus_per_trial": 5}, "5 CPU asked for, but no machine has more than 4; see --cpus-per-trial"),
        ({"cpus_per_data": 5}, "5 CPU asked for, but no machine has more than 4; see --set run.cpus_per_data=..."),
    ],
)  # fmt: skip
def test_the_error_names_what_a_machine_lacks(run: dict[str, Any], problem: str | None) -> None:
    assert lacking(RunSpec.parse(run, "test"), {"CPU": 4.0, "GPU": 1.0}) == problem


def test_a_cpu_build_of_torch_hides_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray detects the GPU and assigns it to trials."""
    monkeypatch.setattr(resources.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(resources, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert local_resources()["GPU"] == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_resources()["GPU"] == 0


def test_a_sweep_that_this_machine_cannot_run_is_refused_at_once(opsctl: Opsctl, tmp_path: Path) -> None:
    """Before MLflow is opened and Ray is started."""
    file = write(tmp_path, tiny())
    code, out, err = opsctl("sweep", file, "--gpus-per-trial", 64)
    assert code == 2
    assert "64 GPU asked for, but no machine has more than " in err
    assert "--address" in err
    assert not (tmp_path / "store" / "mlflow.db").exists()
    code, out, err = opsctl("plan", file, "--set", "run.gpus_per_trial=64")
    assert (code, err) == (0, "")
    assert "opsctl sweep on this machine would refuse: 64 GPU asked for" in out
    assert "or run it on a cluster (--address, opsctl submit)" in out


def test_an_instruction_set_missing_on_this_cpu_is_refused_at_once(
    opsctl: Opsctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avx2 = frozenset(FLAGS["sse41"] + FLAGS["avx"] + FLAGS["avx2"])
    monkeypatch.setattr(resources, "cpu_flags", lambda: avx2)
    assert lacking_here(RunSpec(cpu_isa="avx2")) is None
    assert "has avx2 at most; write cpu_isa: avx2" in (lacking_here(RunSpec(cpu_isa="avx512_core")) or "")
    file = write(tmp_path, tiny(run={"cpu_isa": "avx512_core_amx"}))
    code, _, err = opsctl("sweep", file)
    assert code == 2
    assert "run.cpu_isa: avx512_core_amx asked for, but the processor of this machine" in err
    assert not (tmp_path / "store" / "mlflow.db").exists()
    monkeypatch.setattr(resources, "cpu_flags", frozenset)
    assert "has no instruction set of x86; leave" in (lacking_here(RunSpec(cpu_isa="avx")) or "")


def test_a_trial_of_more_cpus_than_the_machine_has_is_planned_quickly(opsctl: Opsctl, tmp_path: Path) -> None:
    """The speed of this machine is measured with no more threads than it has CPUs."""
    begun = time.monotonic()
    code, out, _ = opsctl("plan", write(tmp_path, tiny()), "--set", "run.cpus_per_trial=4096")
    assert time.monotonic() - begun < 60
    assert code == 0
    assert "4096 CPU asked for, but no machine has more than" in out
    assert "measured on this machine" in out
