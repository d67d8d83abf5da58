"""A damaged file of a store counts as missing and is rebuilt, however it is damaged."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poisons import DataSpec, Store, arrow
from poisons.base import Perturbation
from poisons.durable import stamp, write_whole
from poisons.exchange.importing import store_import
from poisons.methods.imported import read_import
from poisons.perturbations.delta import Delta
from poisons.perturbations.pixel_write import PixelWrite
from poisons.store.store import damaged, restored
from trainers import Images, InputError
from trainers.stored import DamagedError

OPS = DataSpec.parse({"poison": "ops", "limit": 20}, "test").pinned()
PIXELS = PixelWrite(
    torch.tensor([[0, 1], [2, -1]]),
    torch.tensor([[3, 0], [1, 0]]),
    torch.zeros(2, 2, 3, dtype=torch.uint8),
    (4, 5),
)


def written(
    file: Path,
    columns: dict[str, pa.Array],
    meta: Any = None,
    *,
    compression: str | None = None,
    batches: int = 1,
) -> Path:
    """An Arrow file with these columns, and JSON beside them."""
    metadata = None if meta is None else {"opsctl": meta if isinstance(meta, bytes) else json.dumps(meta)}
    schema = pa.schema([(name, array.type) for name, array in columns.items()], metadata=metadata)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return file


def of_images(**changes: Any) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """The columns and metadata of two 1x2x2 images, changed."""
    columns = {
        "image": pa.FixedSizeListArray.from_arrays(pa.array(range(8), pa.uint8()), 4),
        "label": pa.array([0, 1]),
        "index": pa.array([0, 5]),
    }
    kinds: dict[str, Any] = {"image": ["uint8", 1, 2, 2], "label": ["int64"], "index": ["int64"]}
    values = {"num_classes": 2}
    for name, change in changes.items():
        {"columns": columns, "kinds": kinds, "told": values}[name].update(change)
    return columns, {"kinds": kinds, "told": values}


def test_the_intact_file_is_read(tmp_path: Path) -> None:
    images = arrow.read_images(written(tmp_path / "a.arrow", *of_images()))
    assert (len(images), images.shape, images.num_classes) == (2, (1, 2, 2), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": {"image": ["uint8", 1, 2, 2**40]}}, "not made of positive whole numbers"),
        ({"kinds": {"image": ["uint8", 1, 2, -2]}}, "not made of positive whole numbers"),
        ({"kinds": {"image": ["uint8", 1, 2, 0]}}, "not made of positive whole numbers"),
        ({"kinds": {"image": ["uint8", 1, 2, "2"]}}, "not made of positive whole numbers"),
        ({"kinds": {"image": ["uint8", 2**20, 2**20, 2**20]}}, "not as its metadata says"),
        ({"kinds": {"image": ["uint8", 1, 2, 3]}}, "not as its metadata says"),
        ({"kinds": {"image": ["int64", 1, 2, 2]}}, "not as its metadata says"),
        ({"kinds": {"image": ["object", 1, 2, 2]}}, "its dtype is 'object'"),
        ({"kinds": {"image": ["V1000000000", 1, 2, 2]}}, "its dtype is"),
        ({"kinds": {"image": [7, 1, 2, 2]}}, "its dtype is"),
        ({"kinds": {"image": []}}, "kinds.image"),
        ({"kinds": {"image": "uint8"}}, "kinds.image"),
        ({"kinds": {"image": ["uint8", 2, 2]}}, "image: expected uint8 of 4 dimensions"),
        ({"kinds": {"more": ["int64"]}}, "not those that its metadata names"),
        ({"told": {"num_classes": 1}}, r"labels must lie in 0\.\.0, found 0\.\.1"),
        ({"told": {"num_classes": -1}}, "num_classes"),
        ({"told": {"num_classes": 2**62}}, "num_classes"),
        ({"told": {"num_classes": "2"}}, "num_classes"),
        ({"columns": {"label": pa.array([0, 2])}}, r"labels must lie in 0\.\.1, found 0\.\.2"),
        ({"columns": {"label": pa.array([-1, 0])}}, r"labels must lie in 0\.\.1, found -1\.\.0"),
        ({"columns": {"label": pa.array([0.0, 1.0])}}, "not as its metadata says"),
        ({"columns": {"label": pa.array([0, None])}}, "not as its metadata says"),
        ({"columns": {"label": pa.array(["a", "b"])}}, "not as its metadata says"),
        ({"columns": {"index": pa.array([-4, 0])}}, "a row of the source is negative"),
        ({"columns": {"more": pa.array([0, 1])}, "kinds": {"more": ["int64"]}}, "expected the columns image"),
    ],
)
def test_a_damaged_file_of_images_is_recognised(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = written(tmp_path / "a.arrow", *of_images(**changes))
    with pytest.raises(DamagedError, match=message):
        arrow.read_images(file)


@pytest.mark.parametrize(
    "meta", [None, b"", b"{", b"[]", b'{"kinds": {}}', b'{"kinds": {}, "told": []}', b"[" * 10_000, b"NaN"]
)
def test_invalid_metadata_is_damage(tmp_path: Path, meta: bytes | None) -> None:
    columns, _ = of_images()
    with pytest.raises(DamagedError):
        arrow.read(written(tmp_path / "a.arrow", columns, meta))


@pytest.mark.parametrize("batches", [0, 2])
def test_there_is_one_record_batch(tmp_path: Path, batches: int) -> None:
    with pytest.raises(DamagedError, match="record batch"):
        arrow.read_images(written(tmp_path / "a.arrow", *of_images(), batches=batches))


def test_nothing_is_decompressed(tmp_path: Path) -> None:
    """A file of some kilobytes would become gigabytes."""
    rows = 20_000
    columns = {
        "image": pa.FixedSizeListArray.from_arrays(pa.array(bytes(rows * 3072), pa.uint8()), 3072),
        "label": pa.array([0] * rows),
        "index": pa.array(range(rows)),
    }
    meta = {"kinds": {"image": ["uint8", 3, 32, 32], "label": ["int64"], "index": ["int64"]}, "told": {}}
    file = written(tmp_path / "a.arrow", columns, meta, compression="zstd")
    assert file.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(DamagedError, match="uncompressed"):
        arrow.read_images(file)
    assert pa.total_allocated_bytes() - before < 1e6


@pytest.mark.parametrize("kind", ["empty", "text", "pipe", "link", "folder"])
def test_a_pipe_in_place_of_an_arrow_file_does_not_block(tmp_path: Path, kind: str) -> None:
    file, good = tmp_path / "a.arrow", written(tmp_path / "good.arrow", *of_images())
    {
        "empty": lambda: file.touch(),
        "text": lambda: file.write_text("images\n" * 1000),
        "pipe": lambda: os.mkfifo(file),
        "link": lambda: file.symlink_to(good),
        "folder": lambda: file.mkdir(),
    }[kind]()
    with pytest.raises((DamagedError, IsADirectoryError)):
        arrow.read_images(file)
    if kind != "folder":
        assert not arrow.in_use(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder to write into, and the bytes of a file of images and of two perturbations."""
    folder = tmp_path_factory.mktemp("whole")
    written(folder / "data.arrow", *of_images())
    for name, link in (("delta", Delta(torch.ones(2, 1, 2, 2, dtype=torch.int16))), ("pixels", PIXELS)):
        arrow.write(folder / f"{name}.arrow", link.columns(), {"kind": link.kind, **link.to_json()})
    return folder, {file.stem: file.read_bytes() for file in folder.glob("*.arrow")}


@settings(max_examples=400, derandomize=True, database=None)
@given(data=st.data())
def test_any_bytes_are_read_as_written_or_reported_damaged(
    whole: tuple[Path, dict[str, bytes]], data: st.DataObject
) -> None:
    """Bytes changed, removed, repeated, cut off: each a reason in a line, or values of the right kind."""
    folder, originals = whole
    name = data.draw(st.sampled_from(sorted(originals)))
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        how = data.draw(st.sampled_from(["byte", "number", "cut", "remove", "repeat"]))
        if how == "byte":
            content[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif how == "number":
            value = data.draw(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**62, -(2**63)]))
            content[at : at + 8] = struct.pack("<q", value)
        elif how == "cut":
            del content[at:]
        else:
            content[at : at + 8] = b"" if how == "remove" else content[at : at + 8] * 2
    file = folder / f"{name}.changed"
    file.write_bytes(content)
    with suppress(DamagedError):
        if name == "data":
            images = arrow.read_images(file)
            assert int(images.y.max()) < images.num_classes
            assert int(images.x.sum()) >= 0, "every pixel can be read"
        else:
            assert restored(file).facts() is not None


def columns_of(link: Perturbation, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**link.columns(), **changes}


NOISE = Delta(torch.ones(2, 1, 2, 2, dtype=torch.int8), "class")


@pytest.mark.parametrize(
    ("link", "columns", "values", "message"),
    [
        (
            NOISE,
            {"delta": torch.ones(2, 1, 2, 2)},
            {},
            "expected int8 or int16 of 4 dimensions, found float32",
        ),
        (NOISE, {"delta": torch.ones(2, 4, dtype=torch.int8)}, {}, "of 4 dimensions"),
        (NOISE, {"delta": torch.full((2, 1, 2, 2), 256, dtype=torch.int16)}, {}, r"found 256\.\.256"),
        (NOISE, {"more": torch.ones(2)}, {}, "expected the columns delta, found delta, more"),
        (NOISE, {}, {"per": "pixel"}, "per: "),
        (NOISE, {}, {"per": ["image"]}, "per: "),
        (NOISE, {}, {"per": "universal"}, "2 rows do not fit per: universal"),
        (NOISE, {}, {"shape": 4}, "shape: Extra inputs"),
        (NOISE, {}, {"kind": "nothing"}, "no perturbation of the kind 'nothing'"),
        (NOISE, {}, {"kind": ["delta"]}, "no perturbation of the kind"),
        (NOISE, {}, {"kind": "chain"}, "link by link"),
        (NOISE, {}, {"kind": "pixel_write"}, "expected the columns row, column, colour"),
        (PIXELS, {"row": torch.tensor([[0, 1], [4, -1]])}, {}, "row: a pixel is outside images of 4x5"),
        (PIXELS, {"row": torch.tensor([[0, 1], [2, -2]])}, {}, "row: a pixel is outside"),
        (
            PIXELS,
            {"column": torch.tensor([[3, 0], [5, 0]])},
            {},
            "column: a pixel is outside images of 4x5",
        ),
        (PIXELS, {"column": torch.tensor([[3, 0], [-1, 0]])}, {}, "column: a pixel is outside"),
        (PIXELS, {"column": torch.zeros(2, 3, dtype=torch.int64)}, {}, "do not belong together"),
        (PIXELS, {"row": torch.zeros(2, 2, dtype=torch.int32)}, {}, "row: expected int64"),
        (PIXELS, {}, {"shape": [4]}, "shape: "),
        (PIXELS, {}, {"shape": [4, 0]}, "shape.1: "),
        (PIXELS, {}, {"shape": "45"}, "shape: "),
        (PIXELS, {}, {"per": "universal"}, "per: "),
    ],
)
def test_a_damaged_perturbation_is_recognised(
    tmp_path: Path, link: Perturbation, columns: dict[str, torch.Tensor], values: dict[str, Any], message: str
) -> None:
    file = tmp_path / "perturbation-0.arrow"
    arrow.write(file, columns_of(link), {"kind": link.kind, **link.to_json()})
    assert restored(file).to_json() == link.to_json()
    arrow.write(file, columns_of(link, **columns), {"kind": link.kind, **link.to_json(), **values})
    with pytest.raises(DamagedError, match=message):
        restored(file)


def vouched(store: Store, spec: DataSpec, name: str) -> None:
    """Update the record to the present content of a file."""
    record = store.path(spec) / "record.json"
    found = json.loads(record.read_text())
    found["files"][name] = stamp(store.path(spec) / name)
    write_whole(record, found)


def as_text(file: Path) -> None:
    file.write_text("no Arrow file")


def with_a_label_too_high(file: Path) -> None:
    columns, values = arrow.read(file)
    columns["label"][0] = 10
    arrow.write(file.with_suffix(".new"), columns, values)
    file.with_suffix(".new").replace(file)


def fewer(file: Path) -> None:
    columns, values = arrow.read(file)
    columns = {name: values[:5].clone() for name, values in columns.items()}
    arrow.write(file.with_suffix(".new"), columns, values)
    file.with_suffix(".new").replace(file)


def outside(file: Path) -> None:
    columns, values = arrow.read(file)
    columns["row"][0] = 99
    arrow.write(file.with_suffix(".new"), columns, values)
    file.with_suffix(".new").replace(file)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("data.arrow", as_text),
        ("data.arrow", with_a_label_too_high),
        ("data.arrow", fewer),
        ("perturbation-0.arrow", as_text),
        ("perturbation-0.arrow", outside),
    ],
)
def test_a_data_set_with_valid_digests_but_invalid_content_is_rebuilt(
    store: Store, name: str, damage: Callable[[Path], None]
) -> None:
    good = store.ensure(OPS).x.clone()
    damage(store.path(OPS) / name)
    vouched(store, OPS, name)
    if name == "data.arrow":
        assert store.load(OPS) is None
    else:
        with pytest.raises(InputError, match="is damaged"):
            store.perturbation(OPS)
    if damage is not fewer:
        assert list(damaged(store.path(OPS))) == [name]
    mixed = DataSpec.parse({"poison": ["ops", "randpix"], "limit": 20}, "test").pinned()
    store.ensure(mixed)  # which is made from it
    assert torch.equal(store.ensure(OPS).x, good)
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert damaged(store.path(OPS)) == {}


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("name", ["data.arrow", "record.json", "perturbation-0.arrow"])
def test_links_and_pipes_in_place_of_files_are_not_followed_and_do_not_block(
    store: Store, tmp_path: Path, name: str, kind: str
) -> None:
    good = store.ensure(OPS).x.clone()
    file = store.path(OPS) / name
    shutil.move(file, tmp_path / name)
    os.mkfifo(file) if kind == "pipe" else file.symlink_to(tmp_path / name)
    assert not store.has(OPS)
    assert torch.equal(store.ensure(OPS).x, good)
    assert (tmp_path / name).exists()
    assert store.damaged_records() == {}


def test_a_record_of_other_settings_is_damaged(store: Store) -> None:
    store.ensure(OPS)
    record = store.path(OPS) / "record.json"
    found = json.loads(record.read_text())
    found["spec"]["seed"] = 7
    write_whole(record, found)
    assert "its settings are those of digits-ops-train-" in store.damaged_records()[f"data/{OPS.name}"]
    with pytest.raises(InputError, match=r"record.json is damaged: its settings are those of"):
        store.find(OPS.key)
    store.ensure(OPS)
    assert store.find(OPS.key) == OPS


@pytest.mark.parametrize("damage", ["text", "float", "pipe"])
def test_a_damaged_import_is_imported_again(store: Store, images: Images, damage: str) -> None:
    delta = Delta(torch.ones(images.x.shape, dtype=torch.int8))
    fingerprint = store_import(store.root, delta, {}, {})
    folder = store.root / "imports" / fingerprint
    file, record = folder / "perturbation.arrow", json.loads((folder / "record.json").read_text())
    file.unlink()
    if damage == "pipe":
        os.mkfifo(file)
    else:
        arrow.write(file, {"delta": torch.ones(4, 1, 1, 1)}, {"per": "image"})
        if damage == "text":
            as_text(file)
        write_whole(folder / "record.json", record | {"file": stamp(file)})
    assert read_import(folder) is None
    assert store_import(store.root, delta, {}, {}) == fingerprint
    found = read_import(folder)
    assert found is not None
    assert torch.equal(found.delta, delta.delta)
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_statistics_of_other_images_are_recomputed(store: Store) -> None:
    good = store.ensure(OPS).x.clone()
    (mark,) = (store.root / "statistics" / OPS.clean.name).glob("*.json")
    file = mark.with_suffix(".arrow")
    columns, _ = arrow.read(file)
    arrow.write(file.with_suffix(".new"), {name: v[:2].clone() for name, v in columns.items()}, {})
    file.with_suffix(".new").replace(file)
    write_whole(mark, stamp(file))
    shutil.rmtree(store.path(OPS))
    assert torch.equal(store.ensure(OPS).x, good)
