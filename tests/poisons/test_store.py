"""Data sets appear whole or not at all, are what their record says, and are built once however many ask."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from poisons import DataSpec, Store, arrow
from poisons.store import StoreError
from trainers import Images, InputError

OPS = DataSpec.parse({"poison": "ops", "limit": 50}, "test").pinned()


def left_over(store: Store) -> list[str]:
    return [str(p) for p in store.root.rglob("*") if ".tmp" in p.name]


def test_what_is_built_is_opened_again_with_its_record(store: Store) -> None:
    assert not store.has(OPS)
    assert store.load(OPS) is None
    built = store.ensure(OPS)
    opened = Store(store.root).load(OPS)
    assert opened is not None
    assert torch.equal(opened.x, built.x)
    assert torch.equal(opened.y, built.y)
    assert store.has(OPS)
    record = store.record(OPS)
    assert record is not None
    assert DataSpec.parse(record["spec"], "record") == OPS
    assert record["key"] == OPS.key
    assert record["images"] == 50
    assert len(record["facts"]["ops"]["pixels"]) == 10
    assert record["environment"]["versions"]["torch"]
    assert {p.name.rpartition("-")[0] for p in (store.root / "data").iterdir()} == {
        "digits-ops-train",
        "digits-clean-train",
    }
    assert not left_over(store)


def test_the_arrow_file_says_where_each_image_came_from(store: Store) -> None:
    built = store.ensure(OPS)
    images, index = (
        arrow.read(store.path(OPS) / "data.arrow"),
        arrow.read_index(store.path(OPS) / "data.arrow"),
    )
    assert torch.equal(images.x, built.x)
    assert index.tolist() == sorted(set(index.tolist()))
    whole = OPS.source.load("train")
    assert torch.equal(whole.y[index], built.y)
    images.x[0] = 0  # a copy of its own: writing is safe and the file does not change
    assert torch.equal(arrow.read(store.path(OPS) / "data.arrow").x, built.x)


def test_arrow_files_hold_any_shape(tmp_path: Path) -> None:
    x = torch.randint(256, (4101, 1, 3, 2), dtype=torch.uint8)
    images = Images(x, torch.arange(len(x)) % 7, 9)
    arrow.write(tmp_path / "a.arrow", images, torch.arange(len(x)))
    back, index = arrow.read(tmp_path / "a.arrow"), arrow.read_index(tmp_path / "a.arrow")
    assert torch.equal(back.x, x)
    assert torch.equal(back.y, images.y)
    assert back.num_classes == 9
    assert torch.equal(index, torch.arange(len(x)))


def test_pixels_are_a_private_map_of_the_file(tmp_path: Path) -> None:
    """Opening copies nothing, so data sets larger than the memory can be trained on; writing reaches no file."""
    images = Images(
        torch.randint(256, (500, 3, 64, 64), dtype=torch.uint8), torch.zeros(500, dtype=torch.int64), 1
    )
    file = tmp_path / "a.arrow"
    arrow.write(file, images, torch.arange(500))
    before = file.read_bytes()
    back = arrow.read(file)
    if (maps := Path("/proc/self/maps")).exists():  # Linux tells what is mapped
        assert str(file) in maps.read_text()
    back.x[0] = 0
    assert file.read_bytes() == before
    assert torch.equal(arrow.read(file).x, images.x)


def test_a_data_set_laid_out_as_before_is_built_again(store: Store) -> None:
    """An older opsctl wrote several record batches, and no layout into the record."""
    before = store.ensure(OPS).x.clone()
    record = store.path(OPS) / "record.json"
    told = json.loads(record.read_text())
    assert told.pop("layout") == arrow.LAYOUT
    record.write_text(json.dumps(told))
    assert not store.has(OPS), "so a plan says that it is to be built"
    assert torch.equal(store.ensure(OPS).x, before)
    assert store.has(OPS)


@pytest.mark.parametrize("damage", ["truncated", "altered", "no record", "broken record", "no data"])
def test_a_damaged_data_set_is_put_aside_and_built_again(store: Store, damage: str) -> None:
    good = store.ensure(OPS)
    data, record = store.path(OPS) / "data.arrow", store.path(OPS) / "record.json"
    if damage == "truncated":
        os.truncate(data, data.stat().st_size // 2)
    elif damage == "altered":
        with data.open("r+b") as file:
            file.seek(data.stat().st_size // 2)
            file.write(b"\xaa\xbb\xcc")
    elif damage == "broken record":
        record.write_text(record.read_text()[:40])
    else:
        (record if damage == "no record" else data).unlink()
    if damage != "altered":
        assert not store.has(OPS), "seen without reading the bytes"
    assert torch.equal(store.ensure(OPS).x, good.x)
    assert store.has(OPS)
    assert len(list((store.root / "quarantine").iterdir())) == 1


BUILD = """
import sys, json
from poisons import DataSpec, Store
spec = DataSpec.parse(json.loads(sys.argv[2]), "test").pinned()
Store(sys.argv[1]).ensure(spec, report=lambda row: print(row, flush=True))
print(spec.name, flush=True)
"""
SLOW = {
    "poison": {
        "kind": "em",
        "generator": "lenet5",
        "steps": 2,
        "max_rounds": 40,
        "stop_error": 0,
        "batch_size": 10,
    },
    "limit": 100,
}


def builder(store: Store) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(store.root), json.dumps(SLOW)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_builders_of_one_key_end_with_one_data_set(store: Store) -> None:
    builders = [builder(store) for _ in range(3)]
    outputs = [b.communicate(timeout=120) for b in builders]
    assert [b.returncode for b in builders] == [0, 0, 0], outputs
    assert sum("'round': 1," in out for out, _ in outputs) == 1, "one of them did the work"
    assert len(list((store.root / "data").iterdir())) == 2  # this one, and the clean images
    assert store.load(DataSpec.parse(SLOW, "test").pinned()) is not None


def test_a_killed_builder_leaves_nothing_that_looks_done(store: Store) -> None:
    spec = DataSpec.parse(SLOW, "test").pinned()
    victim = builder(store)
    assert victim.stdout is not None
    victim.stdout.readline()  # its first round is over: it is at work
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    (store.path(spec).with_name(spec.name + ".tmp")).mkdir()  # as if it had died while writing
    (store.path(spec).with_name(spec.name + ".tmp") / "data.arrow").write_bytes(b"half")
    assert not store.has(spec)
    assert store.load(spec) is None
    assert len(store.ensure(spec)) == 100
    assert not left_over(store)


def test_a_disk_that_fills_leaves_nothing_and_says_what_is_needed(store: Store) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n" + BUILD,
            str(store.root),
            json.dumps({"limit": 100}),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert StoreError.__name__ in run.stderr
    assert "it needs about 0 MB" in run.stderr
    assert "MB are free" in run.stderr
    assert list((store.root / "data").iterdir()) == []


def test_a_store_of_a_newer_version_is_left_alone(store: Store) -> None:
    (store.root / "store.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="has format 99, this opsctl knows 1: upgrade opsctl"):
        Store(store.root)


def test_a_folder_that_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("[]")
    with pytest.raises(InputError, match="is not a store's mark"):
        Store(tmp_path)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .* choose another with --store"):
        Store(tmp_path / "file" / "store")


def test_equal_sources_share_a_key_wherever_they_lie_and_poisons_have_their_own() -> None:
    clean = DataSpec.parse({"limit": 50}, "test").pinned()
    keys = {clean.key, OPS.key, DataSpec.parse({"limit": 51}, "test").pinned().key}
    assert len(keys) == 3
    with pytest.raises(ValueError, match="no key before it is pinned"):
        _ = DataSpec().key


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"poison": ["clean", "ops"]}, "`clean` stands alone"),
        ({"poison": []}, "`clean` stands alone"),
        ({"split": "test", "poison": "ops"}, "test images are never poisoned"),
        ({"poison": "op"}, "unknown poison 'op'; did you mean 'ops'"),
        ({"limit": 0}, "limit: .*greater than 0"),
        ({"source": {"kind": "digits", "fingerprint": "f" * 32}}, "but the spec promises ffff"),
    ],
)
def test_a_data_set_that_makes_no_sense_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DataSpec.parse(data, "test").pinned()


def test_a_source_that_changed_since_it_was_pinned_is_not_filed_under_the_old_key(
    store: Store, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / split / "a" / f"{i}.png")
    spec = DataSpec.parse({"source": {"kind": "image_folder", "root": str(tmp_path)}}, "test").pinned()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "train" / "a" / "0.png")
    with pytest.raises(InputError, match="but the spec promises"):
        store.ensure(spec)


def test_publishing_waits_for_no_clock(store: Store) -> None:
    """The time of change decides only whether bytes are read again, never whether they are right."""
    store.ensure(OPS)
    data = store.path(OPS) / "data.arrow"
    os.utime(data, (time.time() + 1e6, time.time() + 1e6))
    assert store.load(OPS) is not None
