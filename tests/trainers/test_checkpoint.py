"""A training that is killed goes on, and ends with the numbers it would have had; a checkpoint harms nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CPU, ROOT
from trainers import Images, InputError, TrainSpec, fit
from trainers.checkpoint import Checkpoint, write_tensors

SETTINGS: dict[str, Any] = {
    "architecture": {"kind": "resnet18", "width": 4},
    "augmentations": ["flip_crop", "mixup"],
    "defense": {"kind": "pgd_at", "steps": 1},
    "optimizer": "adamw",
    "schedule": {"kind": "cosine", "warmup": 0.2},
    "epochs": 6,
    "batch_size": 8,
    "ema": 0.9,
}


class PowerError(Exception):
    """The power goes."""


def test_a_resumed_training_is_bit_for_bit_the_whole_one(images: Images, tmp_path: Path) -> None:
    """Dropout, momentum, averages, batch norm, the random draws: all go on as if nothing had been."""
    settings = {**SETTINGS, "architecture": "cct_2_3x2", "epochs": 4, "batch_size": 20}
    spec = TrainSpec.parse(settings, "test")
    whole = fit(spec, images, images, seed=1, device=CPU)
    file = tmp_path / "checkpoint.pt"

    def cut(row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise PowerError

    with pytest.raises(PowerError):
        fit(spec, images, images, seed=1, device=CPU, checkpoint=Checkpoint(file, every=0), report=cut)
    rows: list[dict[str, float]] = []
    checkpoint = Checkpoint(file, every=0)
    resumed = fit(spec, images, images, seed=1, device=CPU, checkpoint=checkpoint, report=rows.append)
    assert rows == resumed.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert checkpoint.warnings == []


def command(folder: Path, *more: str) -> list[str]:
    checkpoint = ["--checkpoint", str(folder / "checkpoint.pt"), "--every", "0"]
    options = ["--data", str(folder), "--threads", "1", "--device", "cpu", *checkpoint, *more]
    return [sys.executable, "-m", "trainers", str(folder / "spec.json"), *options]


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_a_random_moment_it_ends_with_the_same_metrics(
    images: Images, tmp_path: Path, seed: int
) -> None:
    """kill -9 of a real process, some batches into an epoch; the same command then finishes."""
    images.save(tmp_path / "train.pt")
    images.save(tmp_path / "test.pt")
    spec = TrainSpec.parse(SETTINGS, "test")
    torch.set_num_threads(1)
    try:
        whole = fit(spec, images, images, seed=seed, device=CPU)
    finally:
        torch.set_num_threads(2)
    (tmp_path / "spec.json").write_text(json.dumps({"train": SETTINGS, "seed": seed}))
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    for _ in range(random.randint(1, 4)):
        assert json.loads(process.stdout.readline())["epoch"] >= 1
    time.sleep(random.random() * 0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    run = subprocess.run(command(tmp_path), capture_output=True, text=True, cwd=ROOT, check=True)
    *rows, record = (json.loads(line) for line in run.stdout.splitlines())
    assert rows == record["history"] == whole.history
    assert not (tmp_path / "checkpoint.pt").exists()
    assert {file.suffix for file in tmp_path.iterdir()} == {".pt", ".json"}, "no half-written file stays"


def test_a_damaged_checkpoint_is_told_and_training_begins_again(images: Images, tmp_path: Path) -> None:
    spec = TrainSpec.parse({**SETTINGS, "epochs": 1}, "test")
    file = tmp_path / "checkpoint.pt"
    whole = fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(file, every=0))
    file.write_bytes(file.read_bytes()[:1000])
    checkpoint = Checkpoint(file, every=0)
    again = fit(spec, images, images, seed=0, device=CPU, checkpoint=checkpoint)
    assert again.history == whole.history
    assert "damaged" in checkpoint.warnings[0]


def test_a_checkpoint_of_another_training_is_refused(images: Images, tmp_path: Path) -> None:
    spec, file = TrainSpec.parse({**SETTINGS, "epochs": 1}, "test"), tmp_path / "checkpoint.pt"
    fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(file, every=0))
    with pytest.raises(InputError, match=r"belongs to another training .*seed 0.* seed 1.*: delete it"):
        fit(spec, images, images, seed=1, device=CPU, checkpoint=Checkpoint(file, every=0))
    with pytest.raises(InputError, match=r"belongs to another training .*data poisoned"):
        fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(file, every=0, data="poisoned"))


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(
    images: Images, tmp_path: Path
) -> None:
    """It may be whole: training again, and saving, would destroy it. That is no mistake of whoever asked: a
    disk may answer again."""
    (tmp_path / "c.pt").mkdir()
    spec = TrainSpec.parse({**SETTINGS, "epochs": 1}, "test")
    with pytest.raises(OSError, match="cannot be read: Is a directory"):
        fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(tmp_path / "c.pt", every=0))


def test_a_full_disk_is_told_once_and_stops_nothing(images: Images, tmp_path: Path) -> None:
    """/dev/full says ENOSPC to whoever writes there."""
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")

    class Full(Checkpoint):
        def save(self, state: dict[str, Any], *, owner: str) -> None:
            (tmp_path / "full").mkdir(exist_ok=True)
            name = tmp_path / "full" / f".{self.path.name}.tmp"
            if not name.is_symlink():
                name.symlink_to("/dev/full")
            super().save(state, owner=owner)

    checkpoint = Full(tmp_path / "full" / "checkpoint.pt", every=0)
    spec = TrainSpec.parse({**SETTINGS, "epochs": 2}, "test")
    history = fit(spec, images, images, seed=0, device=CPU, checkpoint=checkpoint).history
    assert len(history) == 2
    assert len(checkpoint.warnings) in (1, 2)
    assert all("no checkpoint could be written" in text for text in checkpoint.warnings)
    assert list((tmp_path / "full").iterdir()) == []


def test_a_checkpoint_is_written_only_when_it_is_due(images: Images, tmp_path: Path) -> None:
    spec = TrainSpec.parse({**SETTINGS, "epochs": 2}, "test")
    fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(tmp_path / "c.pt", every=3600))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"owner": "x", "state": Evil()}, tmp_path / "c.pt")
    checkpoint = Checkpoint(tmp_path / "c.pt")
    assert checkpoint.load(owner="x") is None
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError, match="holds no images"):
        Images.load(tmp_path / "c.pt")


def test_a_file_of_tensors_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no/where|" + str(errno.ENOENT)):
        write_tensors(tmp_path / "no" / "where.pt", {})
    write_tensors(tmp_path / "a.pt", {"x": torch.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]
