"""A killed training resumes and ends with the numbers of an uninterrupted one; checkpoints do no harm."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
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
    """A power failure."""


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(images: Images, tmp_path: Path) -> None:
    """Dropout, momentum, averages, batch norm and random draws continue as without an interruption."""
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


def test_a_damaged_checkpoint_gives_a_warning_and_a_restart(images: Images, tmp_path: Path) -> None:
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


def test_an_unreadable_checkpoint_does_not_count_as_damaged(images: Images, tmp_path: Path) -> None:
    """It may be intact, and a restarted training would overwrite it. The error is not the caller's: the disk may
    recover."""
    (tmp_path / "c.pt").mkdir()
    spec = TrainSpec.parse({**SETTINGS, "epochs": 1}, "test")
    with pytest.raises(OSError, match="cannot be read: Is a directory"):
        fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(tmp_path / "c.pt", every=0))


def test_a_full_disk_gives_one_warning_and_stops_nothing(images: Images, tmp_path: Path) -> None:
    """Writing to /dev/full raises ENOSPC."""
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


def test_a_file_of_tensors_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no/where|" + str(errno.ENOENT)):
        write_tensors(tmp_path / "no" / "where.pt", {})
    write_tensors(tmp_path / "a.pt", {"x": torch.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def changed(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Have `change` done to the state in a checkpoint."""
    found = torch.load(file, weights_only=True)
    change(found["state"])
    torch.save(found, file)


def first(values: dict[Any, Any]) -> Any:
    return next(iter(values))


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no model": lambda s: s.pop("model"),
    "a model that is a list": lambda s: s.update(model=[1]),
    "a weight missing": lambda s: s["model"].pop(first(s["model"])),
    "a weight more": lambda s: s["model"].update(more=torch.ones(1)),
    "a weight of another shape": lambda s: s["model"].update({first(s["model"]): torch.ones(1)}),
    "a weight that is a number": lambda s: s["model"].update({first(s["model"]): 1.0}),
    "a weight of another dtype": lambda s: s["model"].update(
        {first(s["model"]): s["model"][first(s["model"])].double()}
    ),
    "a weight that is not finite": lambda s: s["model"][first(s["model"])].fill_(float("nan")),
    "no optimizer": lambda s: s.update(optimizer=None),
    "no groups": lambda s: s["optimizer"].update(param_groups=[]),
    "other settings": lambda s: s["optimizer"]["param_groups"][0].update(weight_decay="much"),
    "state of another parameter": lambda s: s["optimizer"]["state"].update({10**6: {}}),
    "state of another shape": lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(3)),
    "state that is text": lambda s: s["optimizer"]["state"][0].update(exp_avg="0"),
    "no average": lambda s: s.update(average=None),
    "an average of nothing": lambda s: s["average"].update(model={}),
    "an average that may have begun": lambda s: s["average"].update(begun=1),
    "no history": lambda s: s.pop("history"),
    "a history that is a number": lambda s: s.update(history=3),
    "a history of text": lambda s: s.update(history=["epoch 1"]),
    "a metric that is text": lambda s: s["history"][0].update(lr="0.1"),
    "a metric that is not finite": lambda s: s["history"][0].update(lr=float("nan")),
    "too long a history": lambda s: s.update(history=s["history"] * 9),
    "seconds that are text": lambda s: s.update(seconds="1"),
    "seconds below zero": lambda s: s.update(seconds=-1.0),
    "platforms that are numbers": lambda s: s.update(platforms=[1]),
    "watched that is a list": lambda s: s.update(watched=[]),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Images, TrainSpec, list[dict[str, float]]]:
    """A checkpoint of a training of two epochs after the first, and what its history becomes."""
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(256, (16, 3, 8, 8), generator=gen, dtype=torch.uint8)
    images, file = Images(x, torch.arange(16) % 4, 4), tmp_path_factory.mktemp("saved") / "c.pt"
    spec = TrainSpec.parse({**SETTINGS, "defense": "erm", "epochs": 2}, "test")

    def cut(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise PowerError

    with pytest.raises(PowerError):
        fit(spec, images, images, seed=0, device=CPU, checkpoint=Checkpoint(file, every=0), report=cut)
    return file, images, spec, fit(spec, images, images, seed=0, device=CPU).history


@pytest.mark.parametrize("what", WRONG)
def test_a_malformed_checkpoint_gives_a_warning_and_a_restart(
    saved: tuple[Path, Images, TrainSpec, list[dict[str, float]]], tmp_path: Path, what: str
) -> None:
    good, images, spec, history = saved
    file = Path(shutil.copy(good, tmp_path))
    changed(file, WRONG[what])
    checkpoint = Checkpoint(file, every=3600)
    assert fit(spec, images, images, seed=0, device=CPU, checkpoint=checkpoint).history == history
    (warning,) = checkpoint.warnings
    assert re.search(r"the checkpoint was damaged \(.+\); what it held was done again", warning), warning


def test_the_intact_checkpoint_is_resumed(
    saved: tuple[Path, Images, TrainSpec, list[dict[str, float]]], tmp_path: Path
) -> None:
    good, images, spec, history = saved
    checkpoint, seen = Checkpoint(Path(shutil.copy(good, tmp_path)), every=3600), []
    assert len(Checkpoint(good).load(owner=f"{spec.key}, seed 0")["history"]) == 1  # type: ignore[index]
    fit(spec, images, images, seed=0, device=CPU, checkpoint=checkpoint, report=seen.append)
    assert (seen, checkpoint.warnings) == (history, [])


class Bytes:
    """Many zeros, as a pickle asks for them."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return bytearray, (10**9,)


def compressed(file: Path) -> None:
    """The same archive as torch.save writes, deflated."""
    torch.save({"owner": "x", "state": {"a": torch.zeros(2**26)}}, file)
    with zipfile.ZipFile(file) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as small:
        for name, content in members.items():
            small.writestr(name, content)


def claiming(file: Path) -> None:
    """A storage whose declared size exceeds its real one."""
    torch.save({"owner": "x", "state": {"a": torch.zeros(1000, dtype=torch.int8)}}, file)
    with zipfile.ZipFile(file) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w") as changed:
        for name, content in members.items():
            changed.writestr(name, content.replace(b"M\xe8\x03", b"M\xff\xff"))


@pytest.mark.parametrize(
    "write",
    [
        compressed,
        claiming,
        lambda file: torch.save({"owner": "x", "state": Bytes()}, file),
        lambda file: torch.save({"owner": "x", "state": {"a": torch.zeros(1).expand(2**40)}}, file),
        lambda file: torch.save({"owner": "x", "state": [1]}, file),
        lambda file: torch.save({"owner": 7, "state": {}}, file),
        lambda file: torch.save([1, 2], file),
        lambda file: torch.save({"owner": "x", "state": {}}, file, _use_new_zipfile_serialization=False),
        lambda file: file.touch(),
        os.mkfifo,
        lambda file: file.symlink_to("/dev/zero"),
        lambda file: file.symlink_to(file.name),
    ],
    ids=[
        *("deflated", "claims", "bytearray", "expanded", "list", "owner", "no dict", "legacy", "empty"),
        *("pipe", "device", "cycle"),
    ],
)
def test_a_file_cannot_allocate_more_memory_than_its_size(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    write(tmp_path / "c.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = Checkpoint(tmp_path / "c.pt")
    assert checkpoint.load(owner="x") is None
    assert "the checkpoint was damaged (" in checkpoint.warnings[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"
