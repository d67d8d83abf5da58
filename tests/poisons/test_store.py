"""Data sets are published completely or not at all, match their record, and are built once for any number of callers."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image

from poisons import CraftContext, DataSpec, Store, arrow, durable
from poisons.records import LAYOUT
from poisons.store.build import chosen_images
from poisons.store.store import StoreError, damaged
from trainers import Images, InputError
from trainers.loop import generator

OPS = DataSpec.parse({"poison": "ops", "limit": 50}, "test").pinned()


def left_over(store: Store) -> list[str]:
    return [str(p) for p in store.root.rglob("*") if ".tmp" in p.name]


def test_a_built_data_set_is_opened_with_its_record(store: Store) -> None:
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
    file = store.path(OPS) / "data.arrow"
    images, index = arrow.read_images(file), arrow.read_index(file)
    assert torch.equal(images.x, built.x)
    assert index.tolist() == sorted(set(index.tolist()))
    whole = OPS.source.load("train")
    assert torch.equal(whole.y[index], built.y)
    images.x[0] = 0  # a copy of its own: writing is safe and the file does not change
    assert torch.equal(arrow.read_images(file).x, built.x)


def written(file: Path, images: Images, size: int = 1000) -> arrow.StoredImages:
    """`images` through a Writer, `size` at a time."""
    with arrow.Writer(file) as writer:
        for at, chunk in enumerate(images.chunks(size)):
            writer.append(chunk, torch.arange(at * size, at * size + len(chunk)))
        writer.close()
    return arrow.read_images(file)


def test_arrow_files_hold_any_shape(tmp_path: Path) -> None:
    x = torch.randint(256, (4101, 1, 3, 2), dtype=torch.uint8)
    images = Images(x, torch.arange(len(x)) % 7, 9)
    back, index = written(tmp_path / "a.arrow", images), arrow.read_index(tmp_path / "a.arrow")
    assert torch.equal(back.x, x)
    assert torch.equal(back.y, images.y)
    assert back.num_classes == 9
    assert torch.equal(index, torch.arange(len(x)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]


def test_chunks_read_from_the_file_equal_the_images(tmp_path: Path) -> None:
    x = torch.randint(256, (103, 3, 5, 4), dtype=torch.uint8)
    back = written(tmp_path / "a.arrow", Images(x, torch.arange(len(x)) % 7, 7), 50)
    chunks = list(back.chunks(40, 3, 100))
    assert [len(chunk) for chunk in chunks] == [40, 40, 17]
    assert torch.equal(torch.cat([chunk.x for chunk in chunks]), x[3:100])
    assert torch.equal(torch.cat([chunk.y for chunk in chunks]), back.y[3:100])
    again = pickle.loads(pickle.dumps(back))
    assert torch.equal(again.x, x)
    assert len(pickle.dumps(back)) < 1000, "pickled, they are their path"


def test_tensors_of_every_dtype_are_restored(tmp_path: Path) -> None:
    columns = {
        "a": torch.randint(-128, 127, (7, 2, 3), dtype=torch.int8),
        "b": torch.arange(7),
        "c": torch.randn(7, 5),
        "d": torch.arange(14, dtype=torch.int16).view(7, 2),
    }
    arrow.write(tmp_path / "t.arrow", columns, {"name": "x", "list": [1, 2]})
    back, values = arrow.read(tmp_path / "t.arrow")
    assert values == {"name": "x", "list": [1, 2]}
    assert list(back) == list(columns)
    assert all(torch.equal(back[name], columns[name]) for name in columns)


def test_pixels_are_a_private_map_of_the_file(tmp_path: Path) -> None:
    """Opening copies nothing, so data sets larger than the memory can be trained on; writing reaches no file."""
    images = Images(
        torch.randint(256, (500, 3, 64, 64), dtype=torch.uint8), torch.zeros(500, dtype=torch.int64), 1
    )
    file = tmp_path / "a.arrow"
    back = written(file, images)
    before = file.read_bytes()
    if (maps := Path("/proc/self/maps")).exists():  # Linux tells what is mapped
        assert str(file) in maps.read_text()
    back.x[0] = 0
    assert file.read_bytes() == before
    assert torch.equal(arrow.read_images(file).x, images.x)


def test_a_column_may_have_more_values_than_31_bits_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow.pa, "OSFile", lambda *_: pa.MockOutputStream())  # counts bytes, keeps none
    rows = 2**31 // 3072 + 1
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", rows * 3072)  # it takes no room on the disk
    pixels = torch.from_file(str(tmp_path / "hole"), size=rows * 3072, dtype=torch.uint8)
    arrow.write(tmp_path / "a.arrow", {"image": pixels.view(rows, 3, 32, 32)}, {})


def test_a_data_set_in_an_older_layout_is_rebuilt(store: Store) -> None:
    """An older opsctl wrote several record batches, and no layout into the record."""
    before = store.ensure(OPS).x.clone()
    file = store.path(OPS) / "record.json"
    record = json.loads(file.read_text())
    assert record.pop("layout") == LAYOUT
    file.write_text(json.dumps(record))
    assert not store.has(OPS), "so that a plan lists it as to be built"
    assert torch.equal(store.ensure(OPS).x, before)
    assert store.has(OPS)


@pytest.mark.parametrize("damage", ["truncated", "altered", "no record", "broken record", "no data"])
def test_a_damaged_data_set_is_quarantined_and_rebuilt(store: Store, damage: str) -> None:
    good = store.ensure(OPS).x.clone()
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
    assert torch.equal(store.ensure(OPS).x, good)
    assert store.has(OPS)
    assert len(list((store.root / "quarantine").iterdir())) == 1


BUILD = """
import sys, json
from poisons import DataSpec, Store, CraftContext
spec = DataSpec.parse(json.loads(sys.argv[2]), "test").pinned()
Store(sys.argv[1]).ensure(spec, CraftContext(report=lambda row: print(row, flush=True)))
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
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_builders_of_one_key_end_with_one_data_set(store: Store) -> None:
    builders = [builder(store) for _ in range(3)]
    outputs = [b.communicate(timeout=120) for b in builders]
    assert [b.returncode for b in builders] == [0, 0, 0], outputs
    assert sum("'round': 1," in out for out, _ in outputs) == 1, "one of them did the work"
    assert len(list((store.root / "data").iterdir())) == 2  # this one, and the clean images
    assert store.load(DataSpec.parse(SLOW, "test").pinned()) is not None


def test_a_killed_builder_leaves_nothing_that_counts_as_done(store: Store) -> None:
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
    assert "it needs about 1 MB" in run.stderr
    assert "MB are free" in run.stderr
    assert list((store.root / "data").iterdir()) == []


def test_opening_reads_no_byte_of_a_file_that_was_not_touched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = store.ensure(OPS).x.clone()
    read: list[Path] = []
    monkeypatch.setattr(durable, "_sha256", lambda file, *_: read.append(file))
    opened = store.load(OPS)
    assert opened is not None
    assert read == []
    assert torch.equal(opened.x, built)
    os.utime(store.path(OPS) / "data.arrow")
    assert store.load(OPS) is None
    assert len(read) == 1, "a file that was touched is read"


def test_verification_reads_every_byte(store: Store) -> None:
    store.ensure(OPS)
    assert damaged(store.path(OPS)) == {}
    data = store.path(OPS) / "data.arrow"
    stat = data.stat()
    with data.open("r+b") as file:
        file.seek(stat.st_size // 2)
        file.write(b"\xaa\xbb\xcc")
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a disk changes bytes: without a time
    assert store.load(OPS) is not None
    assert damaged(store.path(OPS)) == {"data.arrow": "its bytes are not those of its record"}


def test_a_perturbation_is_stored_and_applied_again(store: Store) -> None:
    poisoned, clean = store.ensure(OPS), store.ensure(OPS.clean)
    assert torch.equal(store.perturbation(OPS).apply(clean).x, poisoned.x)
    file = store.path(OPS) / "perturbation-0.arrow"
    assert file.stat().st_size < 10_000, "ten rows, not a copy of the images"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not there, or damaged"):
        store.perturbation(OPS)
    assert not store.has(OPS)
    store.ensure(OPS)
    assert torch.equal(store.perturbation(OPS).apply(clean).x, poisoned.x)


def test_a_process_that_crafted_nothing_restores_every_kind(store: Store) -> None:
    store.ensure(OPS)
    code = "import sys; from pathlib import Path; from poisons.store.store import damaged; "
    code += "print(damaged(Path(sys.argv[1])))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(store.path(OPS))], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "{}"


def test_data_sets_with_the_same_poison_share_its_crafting(store: Store) -> None:
    em = {"kind": "em", "generator": "lenet5", "steps": 1, "train_steps": 1, "max_rounds": 1}
    both, turned, half = (
        DataSpec.parse({"limit": 40, **more}, "test").pinned()
        for more in ({"poison": [em, "ops"]}, {"poison": ["ops", em]}, {"poison": em, "ratio": 0.5})
    )
    rounds: list[dict[str, object]] = []
    made = [store.ensure(spec, CraftContext(report=rounds.append)) for spec in (both, turned, half)]
    assert len(rounds) == 1, "the noise was crafted once"
    pixel = store.perturbation(OPS.model_copy(update={"limit": 40}))
    clean = store.ensure(both.clean)
    noise = store.perturbation(half.crafted[0])
    assert torch.equal(made[0].x, pixel.apply(noise.apply(clean)).x)
    assert torch.equal(made[1].x, noise.apply(pixel.apply(clean)).x)
    assert not torch.equal(made[0].x, made[1].x)
    assert torch.equal(store.perturbation(both).apply(clean).x, made[0].x)
    record = store.record(both)
    assert record is not None
    assert len(record["facts"]["ops"]["pixels"]) == 10
    assert record["facts"]["em"]["rounds"] == rounds


def test_a_ratio_poisons_that_share_of_each_class_and_smaller_ones_lie_inside(store: Store) -> None:
    changed = []
    for ratio in (0.2, 0.5):
        spec = DataSpec.parse({"poison": "ops", "limit": 100, "ratio": ratio}, "test").pinned()
        poisoned, whole = store.ensure(spec), store.ensure(spec.crafted[0])
        clean = store.ensure(spec.clean)
        mine = chosen_images(spec, clean)
        assert torch.bincount(clean.y[mine]).tolist() == [round(10 * ratio)] * 10
        assert torch.equal(poisoned.x[mine], whole.x[mine])
        assert torch.equal(poisoned.x[~mine], clean.x[~mine])
        changed.append(mine)
    assert (changed[1] | ~changed[0]).all()
    other = spec.model_copy(update={"seed": 1})
    assert not torch.equal(chosen_images(other, clean), changed[1])


def test_the_order_of_images_does_not_reveal_which_are_poisoned() -> None:
    """Which images are poisoned, and in what order a training with the same seed sees them, are two draws."""
    images = Images(torch.zeros((4000, 1, 1, 1), dtype=torch.uint8), torch.arange(4000) % 10, 10)
    mine = chosen_images(DataSpec.parse({"poison": "ops", "ratio": 0.5}, "test"), images)
    for epoch in (1, 2):
        order = torch.randperm(4000, generator=generator(torch.device("cpu"), 0, epoch))
        assert 0.45 < mine[order[:2000]].float().mean() < 0.55


def test_a_poison_crafted_on_other_classes_cannot_be_applied(store: Store, tmp_path: Path) -> None:
    two = Images(torch.zeros((6, 3, 32, 32), dtype=torch.uint8), torch.arange(6) % 2, 2)
    two.save(tmp_path / "two.pt")
    source = {"kind": "tensors", "train": str(tmp_path / "two.pt"), "test": str(tmp_path / "two.pt")}
    spec = DataSpec.parse({"source": source, "poison": "randpix", "crafted_on": "digits"}, "test").pinned()
    with pytest.raises(InputError, match=r"crafted on 10 classes .* cannot be applied to 2 classes"):
        store.ensure(spec)


def test_a_poison_crafted_on_another_data_set_is_applied(store: Store, tmp_path: Path) -> None:
    """The other images here: digits turned upside down, as an upload of the same classes."""
    digits = OPS.source.load("train")
    for split in ("train", "test"):
        for row in range(60):
            folder = tmp_path / "new" / split / str(int(digits.y[row]))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.x[row].flip(1).permute(1, 2, 0).numpy()).save(folder / f"{row}.png")
    new = {"kind": "image_folder", "root": str(tmp_path / "new")}
    spec = DataSpec.parse({"source": new, "poison": "ops", "crafted_on": "digits"}, "test").pinned()
    poisoned, clean = store.ensure(spec), store.ensure(spec.clean)
    there = DataSpec.parse({"poison": "ops"}, "test").pinned()
    assert spec.crafted == (there,)
    assert torch.equal(poisoned.x, store.perturbation(there).apply(clean).x)
    own = store.ensure(DataSpec.parse({"source": new, "poison": "ops"}, "test").pinned())
    assert not torch.equal(poisoned.x, own.x)


def test_clean_images_have_one_key_whatever_is_said_about_poisoning() -> None:
    one, other = (
        DataSpec.parse({"poison": "clean", **more}, "test").pinned()
        for more in ({}, {"ratio": 0.5, "crafted_on": "digits"})
    )
    assert one == other


def test_statistics_are_kept_beside_the_clean_images_and_repaired(store: Store) -> None:
    store.ensure(OPS)
    (file,) = (store.root / "statistics" / OPS.clean.name).glob("*.arrow")
    before, stat = file.read_bytes(), file.stat()
    paper = DataSpec.parse({"poison": {"kind": "ops", "objective": "paper"}, "limit": 50}, "test").pinned()
    store.ensure(paper)
    assert file.stat().st_mtime_ns == stat.st_mtime_ns, "another objective reads the existing file"
    file.write_bytes(before[: len(before) // 2])
    (store.path(OPS) / "data.arrow").unlink()
    store.ensure(OPS)
    assert file.read_bytes() == before


def test_a_killed_build_resumes_from_its_checkpoint(store: Store) -> None:
    slow = {**SLOW, "poison": {**SLOW["poison"], "max_rounds": 6, "precision": "float32"}}
    spec = DataSpec.parse(slow, "test").pinned()

    before: list[dict[str, object]] = []

    def die(row: dict[str, object]) -> None:
        before.append(row)
        if row["round"] == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.checkpoint.Checkpoint.due", lambda _: True)
        with pytest.raises(KeyboardInterrupt):
            store.ensure(spec, CraftContext(report=die))
    assert list((store.root / "checkpoints").iterdir())
    rows: list[dict[str, object]] = []
    resumed = store.ensure(spec, CraftContext(report=rows.append))
    assert rows[:3] == before[:3], "earlier rounds are reported again with their seconds, not computed again"
    assert len(rows) == 6
    fresh = Store(store.root.with_name("fresh"))
    assert torch.equal(resumed.x, fresh.ensure(spec).x)
    assert not list((store.root / "checkpoints").iterdir())


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    (store.root / "store.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match="has format 99, this opsctl supports 1: upgrade opsctl"):
        Store(store.root)


def test_the_first_store_file_wins(tmp_path: Path) -> None:
    """Or an older opsctl that opens an empty folder at the same moment would call a newer store its own."""
    durable.create_whole(tmp_path / "store.json", {"format": 99})
    durable.create_whole(tmp_path / "store.json", {"format": 1})
    assert json.loads((tmp_path / "store.json").read_text()) == {"format": 99}
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]


def test_a_url_is_no_folder() -> None:
    with pytest.raises(InputError, match="s3://bucket/x is no folder; for a store at a URL use opsctl"):
        Store("s3://bucket/x")


def test_a_file_that_is_mapped_is_known_to_be_in_use(store: Store) -> None:
    file = store.path(OPS) / "data.arrow"
    opened = store.ensure(OPS)
    assert arrow.in_use(file)
    del opened
    assert not arrow.in_use(file)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("[]")
    with pytest.raises(InputError, match="is damaged"):
        Store(tmp_path)


def test_an_unwritable_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(durable.StoreError, match=r"cannot be written .* choose another with --store"):
        Store(tmp_path / "file" / "store")


def test_equal_sources_share_a_key_wherever_they_are_and_poisons_have_their_own() -> None:
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
        ({"poison": "ops", "ratio": 0}, "ratio: .*greater than 0"),
        (
            {"poison": ["ops", "em"], "crafted_on": "digits"},
            "'em' with these settings is one change per image",
        ),
        ({"source": {"kind": "digits", "fingerprint": "f" * 32}}, "but the spec expects ffff"),
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
    with pytest.raises(InputError, match="but the spec expects"):
        store.ensure(spec)


def test_publishing_does_not_wait(store: Store) -> None:
    """The time of change decides only whether bytes are read again, never whether they are right."""
    store.ensure(OPS)
    data = store.path(OPS) / "data.arrow"
    os.utime(data, (time.time() + 1e6, time.time() + 1e6))
    assert store.load(OPS) is not None
