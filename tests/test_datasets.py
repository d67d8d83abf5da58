"""Data sets on the command line: built, shown, exported, imported and garbage-collected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orchestrator.storage.garbage import entries, find_garbage, remove
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import open_storage
from poisons import DataSpec, Store
from poisons.durable import stamp, write_whole
from poisons.exchange.importing import store_import
from poisons.perturbations.delta import Delta
from tests.conftest import Opsctl, finish, start
from tests.test_fences import loaded

OPS = "{poison: ops, limit: 60}"
EM = {"kind": "em", "generator": "lenet5", "steps": 2, "max_rounds": 2, "batch_size": 20}


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    """The store that the command line uses."""
    return Store(tmp_path / "store")


def spec(**more: Any) -> DataSpec:
    return DataSpec.parse({"poison": "ops", "limit": 60, **more}, "test").pinned()


def test_a_poison_is_built_once_and_its_card_and_picture_are_shown(opsctl: Opsctl, stored: Store) -> None:
    code, out, _ = opsctl("poison", OPS)
    assert code == 0
    assert stored.has(spec())
    assert re.search(r"changed\s+.*100", out), out
    assert spec().key in out
    assert (stored.root / "pictures" / f"{spec().name}.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = opsctl("poison", OPS)
    assert (code, "it was in the store already" in out) == (0, True)


def test_a_poison_is_named_by_its_kind_a_file_or_settings(
    opsctl: Opsctl, stored: Store, tmp_path: Path
) -> None:
    assert opsctl("poison", "ops", "--set", "limit=60")[0] == 0
    (tmp_path / "mine.yaml").write_text("source: digits\npoison: {kind: ops, pixels: 2}\nlimit: 60\n")
    assert opsctl("poison", tmp_path / "mine.yaml", "--set", "poison.pixels=3")[0] == 0
    assert opsctl("poison", "[ops, randpix]", "--set", "limit=60", "--set", "seed=4")[0] == 0
    for wanted in (
        spec(),
        spec(poison={"kind": "ops", "pixels": 3}),
        spec(poison=["ops", "randpix"], seed=4),
    ):
        assert stored.has(wanted)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["poison", "op"], "op: poison.0: unknown poison 'op'; did you mean 'ops'"),
        (["poison", "nowhere.yaml"], "no file nowhere.yaml; name a poison"),
        (["poison", "{poison: ops"], "line 1, column"),
        (["poison", "ops", "--set", "limit"], "--set limit: write path=value, such as source=cifar10"),
        (["poison", "ops", "--device", "cuda:77"], "--device cuda:77"),
        (["show", "abc"], "has no data set of key 'abc'; there are: digits-clean-train-"),
        (["show", "digits"], "has 2 data sets of key 'digits'"),
        (["export", "digits-ops", "--to", "x", "--format", "zip"], "Invalid value for '--format'"),
        (["cache", "verify", "zzz"], "no data set of key 'zzz'"),
        (["import", "nowhere.npy"], "nowhere.npy"),
        (
            ["import", "x.npy", "--clean", "{source: digits, poison: ops, ratio: 0.5}"],
            "these are to be clean images: leave out poison and ratio",
        ),
        (["import", "nowhere.npy", "--clean", "digit"], "unknown source 'digit'; did you mean 'digits'"),
        (["import", "nowhere.npy", "--eps", "0.03"], "--eps: a budget is a fraction"),
        (
            ["import", "nowhere.npy", "--eps", "8"],
            "--eps: eps must be between 1/255 (one level) and 1; found 8; write",
        ),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    opsctl: Opsctl, stored: Store, words: list[str], message: str
) -> None:
    stored.ensure(spec())
    code, out, err = opsctl(*words)
    assert code == 2, out
    assert message in re.sub(r"\s+", " ", err)
    assert "Traceback" not in err


def test_an_exported_data_set_is_imported_as_the_same_images(
    opsctl: Opsctl, stored: Store, tmp_path: Path
) -> None:
    images = stored.ensure(spec())
    code, out, _ = opsctl("export", spec().key[:8], "--to", tmp_path / "out", "--format", "npz")
    assert code == 0
    assert "60 images are in" in out
    (file,) = (tmp_path / "out").glob("*.npz")
    assert np.array_equal(np.load(file)["x"], images.x.permute(0, 2, 3, 1).numpy())
    code, out, _ = opsctl("import", file, "--clean", "{source: digits, limit: 60}", "--eps", "8/255")
    assert code == 0, out
    assert "warning" in out, "one pixel goes further than 8/255"
    (used,) = re.findall(r"data.poison: (\{.*\})", out)
    again = opsctl("poison", f"{{poison: {used}, limit: 60}}")
    assert "it was in the store already" in again[1]
    taken = DataSpec.parse({"poison": {"kind": "imported", **_fields(used)}, "limit": 60}, "test").pinned()
    back = stored.load(taken)
    assert back is not None
    assert torch.equal(back.x, images.x)


def _fields(text: str) -> dict[str, str]:
    return {name: value for name, value in re.findall(r"(\w+): (\w+)", text) if name != "kind"}


@pytest.mark.slow
def test_a_noise_step_divided_among_workers_gives_the_same_bytes(stored: Store) -> None:
    """In processes started by Ray, and in this process."""
    text = json.dumps({"poison": {**EM, "precision": "float32"}, "limit": 60})
    code, out = finish(start("poison", text, "--workers", 2, store=stored.root))
    assert code == 0, out
    assert "round 2" in out
    wanted = DataSpec.parse(json.loads(text), "test").pinned()
    shared = stored.load(wanted)
    alone = Store(stored.root.with_name("alone")).ensure(wanted)
    assert shared is not None
    assert torch.equal(shared.x, alone.x)
    code, out = finish(start("poison", OPS, "--workers", 2, store=stored.root))
    assert code == 0, out
    assert torch.equal(stored.ensure(spec()).x, Store(stored.root.with_name("alone")).ensure(spec()).x)


def test_verify_detects_and_names_damage(opsctl: Opsctl, stored: Store) -> None:
    stored.ensure(spec())
    code, out, _ = opsctl("cache", "verify")
    assert (code, "2 data sets read, 0 files damaged" in out) == (0, True)
    file = stored.path(spec()) / "data.arrow"
    file.write_bytes(file.read_bytes()[:-50] + b"\1" * 50)
    code, out, _ = opsctl("cache", "verify", spec().key)
    assert code == 1
    assert str(file) in out


def used(store: Store, *needs: DataSpec) -> None:
    Ledger(store.where).publish("a" * 16, {"metrics": {}, "needs": [need.name for need in needs]})


def test_gc_lists_and_then_removes_unneeded_files(opsctl: Opsctl, stored: Store) -> None:
    kept, lost = spec(poison=["ops", "randpix"]), spec(limit=50)
    for one in (kept, lost):
        stored.ensure(one)
    used(stored, kept)
    for folder in ("quarantine/old-1", f"data/{lost.name}.tmp"):
        (stored.root / folder).mkdir(parents=True)
    code, out, _ = opsctl("cache", "ls")
    assert code == 0
    assert re.search(rf"{lost.key}.*nobody", out)
    assert re.search(rf"{kept.key}.*1 trial", out)
    code, out, _ = opsctl("cache", "gc")
    assert code == 0
    assert "nothing was removed" in out, "there was no terminal to confirm"
    assert stored.has(lost)
    code, out, _ = opsctl("cache", "gc", "--yes")
    assert code == 0
    assert lost.name in out
    assert kept.name not in out
    left = {folder.name for folder in (stored.root / "data").iterdir()}
    assert left == {kept.name, *(parent.name for parent in kept.parents)}
    assert not any((stored.root / "quarantine").iterdir())
    assert find_garbage(stored) == []


def test_gc_measures_the_age_of_a_file_by_the_clock_of_the_storage(
    stored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    being_written = stored.root / "imports" / ".0123456789abcdef.7.tmp" / "perturbation.arrow"
    being_written.parent.mkdir(parents=True)
    being_written.touch()
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now + 1e6)  # this machine's clock jumps
        assert find_garbage(stored) == []
    os.utime(being_written, (now - 7200, now - 7200))
    assert [item.name for item in find_garbage(stored)] == ["imports/.0123456789abcdef.7.tmp"]


def test_gc_keeps_weights_that_a_running_sweep_starts_from(stored: Store) -> None:
    storage = Ledger(stored.where).storage
    for key in ("start", "other"):
        Ledger(stored.where).publish(key, {"metrics": {}, "needs": []})
        storage.write(f"trials/{key}/weights.pt", b"x" * 100)
    before = find_garbage(stored, weights=True)
    assert {item.name for item in before} == {"trials/start/weights.pt", "trials/other/weights.pt"}
    with Driver(storage, "tuning", threading.Event(), starts=["start"]):
        (item,) = find_garbage(stored, weights=True)
        assert item.name == "trials/other/weights.pt"
        assert [remove(stored, one) for one in sorted(before, key=lambda one: one.name)] == [True, False]
    (item,) = find_garbage(stored, weights=True)
    assert remove(stored, item)


def test_gc_removes_checkpoints_of_finished_trials(stored: Store) -> None:
    """They are left if a worker was killed just after publishing. Checkpoints that a failed probe resumes from, that
    are in use, or that are recent stay."""
    ledger = Ledger(stored.where)
    for key in ("done", "fresh", "held", "failed-probe"):
        ledger.publish(key, {"metrics": {}, "needs": []})
    ledger.fail("failed-probe", {"error": "no", "kind": "trial"})
    ledger.storage.write("leases/held.0", b"driver")
    for key in ("done", "fresh", "held", "failed-probe", "missing"):
        ledger.storage.write(f"trials/{key}/checkpoint.pt", b"x" * 100)
        if key != "fresh":
            os.utime(stored.root / "trials" / key / "checkpoint.pt", (0, 0))
    (item,) = find_garbage(stored)
    assert (item.name, item.bytes) == ("trials/done/checkpoint.pt", 100)
    assert remove(stored, item)
    assert find_garbage(stored) == []
    assert ledger.result("done") is not None


def test_gc_keeps_data_sets_that_a_running_sweep_needs(opsctl: Opsctl, stored: Store) -> None:
    stored.ensure(spec())
    storage = open_storage(stored.where)
    with Driver(storage, "mine", threading.Event(), needs=[spec().name]):
        assert "nothing to remove" in opsctl("cache", "gc", "--yes")[1]
    with Driver(storage, "mine", threading.Event(), needs=[spec().clean.name]):
        assert [e.name for e in entries(stored) if not e.needed_by] == [spec().name]
        opsctl("cache", "gc", "--yes")
    assert not stored.has(spec())
    assert stored.has(spec().clean)


def test_a_divergence_is_one_message_and_exit_code_1(opsctl: Opsctl) -> None:
    wild = {**EM, "optimizer": {"kind": "sgd", "lr": 1e30}, "generator": {"kind": "resnet18", "width": 4}}
    text = json.dumps(
        {"poison": wild, "limit": 60, "source": {"kind": "digits"}, "split": "train", "seed": 0}
    )
    code, _, err = opsctl("poison", text + " " * 200)  # too long for a file name
    assert code == 1
    assert "the generator diverged in round 1; try a smaller optimizer.lr" in err
    assert "Traceback" not in err


def test_a_failed_picture_does_not_fail_the_data_set(opsctl: Opsctl, stored: Store, tmp_path: Path) -> None:
    stored.ensure(spec())
    code, _, err = opsctl("show", spec().key, "--picture", tmp_path)
    assert (code, "--picture" in err) == (2, True)
    (stored.root / "pictures").write_text("in the way")
    code, out, _ = opsctl("poison", OPS)
    assert (code, "no picture:" in out) == (0, True)


def test_gc_keeps_possible_parents_of_a_data_set_being_built(opsctl: Opsctl, stored: Store) -> None:
    stored.ensure(spec().clean)
    with stored.lock(spec()):
        out = opsctl("cache", "gc", "--yes")[1]
        assert "removed 0 of 1" in out
        assert "a data set is being built" in out
    assert "removed 1 of 1" in opsctl("cache", "gc", "--yes")[1]


def test_gc_keeps_the_data_sets_of_failed_trials(stored: Store) -> None:
    stored.ensure(spec())
    Ledger(stored.where).fail("b" * 16, {"error": "Boom", "traceback": None, "needs": [spec().name]})
    assert find_garbage(stored) == []


@pytest.mark.parametrize(
    "command", [["poison"], ["show"], ["export"], ["import"], ["cache"], ["cache", "gc"]]
)
def test_help_of_data_set_commands_imports_nothing_heavy(command: list[str]) -> None:
    found = loaded(
        "import sys\nfrom orchestrator import cli\n"
        f"sys.argv = ['opsctl', *{command!r}, '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass"
    )
    assert not found & {"ray", "mlflow", "torch", "numpy"}


def test_a_folder_that_mirrors_the_source_is_imported_by_file_names(opsctl: Opsctl, tmp_path: Path) -> None:
    gen = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name in ("cat/b.png", "cat/a/a.png", "dog/a.png"):
            x = torch.randint(1, 256, (16, 16, 3), generator=gen, dtype=torch.uint8).numpy()
            for root, pixels in (("clean", x), ("poisoned", x - 1)):
                (tmp_path / root / split / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / root / split / name)
    source = f"{{kind: image_folder, root: {tmp_path}/clean}}"
    code, out, err = opsctl("import", tmp_path / "poisoned", "--clean", source)
    assert code == 0, err
    assert re.search(r"imported: matched by\s+name", out), out
    assert re.search(r"Linf\s+mean 1, median 1.*largest 1 ", out), out
    (tmp_path / "poisoned" / "train" / "cat" / "b.png").unlink()
    code, _, err = opsctl("import", tmp_path / "poisoned", "--clean", source)
    assert code == 2
    assert "1 of 3 images have no file, the first is image 0 of the source, cat/b.png" in re.sub(
        r"\s+", " ", err
    )


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record.pop(name)


RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "only a layout": lambda r: (kept := r["layout"], r.clear(), r.update(layout=kept, files=None)),
    "no spec": without("spec"),
    "no parents": without("parents"),
    "no key": without("key"),
    "no files": without("files"),
    "no shape": without("shape"),
    "another's key": lambda r: r.update(key="0" * 16),
    "a spec without source": lambda r: r["spec"].pop("source"),
    "a spec without poison": lambda r: r["spec"].update(poison=[]),
    "a poison that is text": lambda r: r["spec"].update(poison="ops"),
    "a file elsewhere": lambda r: r["files"].update({"../../x.arrow": r["files"]["data.arrow"]}),
    "a parent elsewhere": lambda r: r.update(parents=["../x-" + "0" * 16]),
    "a time that is a number": lambda r: r["environment"].update(time=5),
    "a time that is none": lambda r: r["environment"].update(time="yesterday"),
    "versions that are a list": lambda r: r["environment"].update(versions=["torch"]),
    "a change without spread": lambda r: r["change"].update(L2=3),
    "a change that is a list": lambda r: r.update(change=[1]),
    "skipped files that are numbers": lambda r: r.update(skipped=[1]),
    "facts that are a list": lambda r: r.update(facts=[]),
    "images below zero": lambda r: r.update(images=-1),
    "seconds that are text": lambda r: r.update(seconds="long"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_data_set_with_a_malformed_record_is_reported_and_rebuilt(
    opsctl: Opsctl, stored: Store, tmp_path: Path, what: str
) -> None:
    stored.ensure(spec())
    file = stored.path(spec()) / "record.json"
    record = json.loads(file.read_text())
    RECORDS[what](record)
    file.write_text(json.dumps(record))
    code, out, err = opsctl("cache", "ls")
    assert (code, err) == (0, "")
    assert re.search(rf"damaged .*/data/{spec().name}: \S", out), out
    code, out, _ = opsctl("cache", "verify")
    assert (code, "1 files damaged" in out) == (1, True)
    assert re.search(rf"damaged .*/data/{spec().name}/record\.json: \S", out), out
    key, to = spec().key, tmp_path / "x"
    for words in (
        ["show", key],
        ["cache", "show", key],
        ["cache", "verify", key],
        ["export", key, "--to", to],
    ):
        code, _, err = opsctl(*words)
        assert (code, "Traceback" in err) == (2, False)
        assert f"data/{spec().name}/record.json is damaged" in re.sub(r"\s+", " ", err)
    assert opsctl("cache", "gc")[0] == 0
    code, out, _ = opsctl("poison", OPS)
    assert code == 0
    assert "building" in out
    assert opsctl("cache", "verify")[0] == 0
    assert len(list((stored.root / "quarantine").iterdir())) == 1


def test_verification_reads_imports_and_content_too(opsctl: Opsctl, stored: Store) -> None:
    stored.ensure(spec())
    fingerprint = store_import(stored.root, Delta(torch.ones(60, 3, 32, 32, dtype=torch.int8)), {}, {})
    code, out, _ = opsctl("cache", "verify")
    assert (code, "2 data sets and 1 imports read, 0 files damaged" in out) == (0, True)
    noise = stored.root / "imports" / fingerprint / "perturbation.arrow"
    noise.write_bytes(noise.read_bytes()[:-8])
    (stored.root / "imports" / ("f" * 16)).mkdir()
    pixels = stored.path(spec()) / "perturbation-0.arrow"
    pixels.write_text("no Arrow file")
    record = json.loads((stored.path(spec()) / "record.json").read_text())
    record["files"][pixels.name] = stamp(pixels)
    write_whole(stored.path(spec()) / "record.json", record)
    code, out, _ = opsctl("cache", "verify")
    assert (code, "3 files damaged" in out) == (1, True)
    for name, why in (
        (f"imports/{fingerprint}/perturbation.arrow", "its bytes are not those of its record"),
        (f"imports/{'f' * 16}/record.json", "it has no record.json"),
        (f"data/{spec().name}/perturbation-0.arrow", "it is no Arrow file"),
    ):
        assert f"{stored.root}/{name}: {why}" in out


PICTURE = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
from orchestrator import cli
sys.argv = ["opsctl", "show", sys.argv[1], "--picture", sys.argv[2], "--store", sys.argv[3]]
cli.main()
"""


def test_a_picture_is_written_completely_or_not_at_all(opsctl: Opsctl, stored: Store, tmp_path: Path) -> None:
    """A limit on file sizes simulates a full disk."""
    stored.ensure(spec())
    place = tmp_path / "out" / "p.png"

    def on_a_full_disk() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PICTURE, spec().key, str(place), str(stored.root)]
        return subprocess.run(command, capture_output=True, text=True)

    full = on_a_full_disk()
    assert full.returncode == 2
    assert "File too large" in re.sub(r"\s+", " ", full.stderr)
    assert list(place.parent.iterdir()) == []
    assert opsctl("show", spec().key, "--picture", place)[0] == 0
    good = place.read_bytes()
    assert len(good) > 4000
    assert on_a_full_disk().returncode == 2
    assert place.read_bytes() == good, "the earlier picture is kept"
    assert [file.name for file in place.parent.iterdir()] == ["p.png"]


def test_a_picture_may_be_written_through_a_link_or_to_a_device(
    opsctl: Opsctl, stored: Store, tmp_path: Path
) -> None:
    stored.ensure(spec())
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    (tmp_path / "real.png").touch()
    assert opsctl("show", spec().key, "--picture", tmp_path / "link.png")[0] == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
    assert opsctl("show", spec().key, "--picture", "/dev/null")[0] == 0
    assert Path("/dev/null").is_char_device(), "it was not replaced by a file"
