"""What is exported has every byte and label, in the layouts that others read, and appears whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from torchvision.datasets import ImageFolder

from poisons import DataSpec, Store
from poisons.arrow import read_index
from poisons.exchange import export
from poisons.exchange.export import Form
from poisons.sources.image_folder import ImageFolder as FolderSource
from poisons.sources.parquet import Parquet
from poisons.store.publication import public_text
from trainers import Images, InputError

FORMS: tuple[Form, ...] = ("image_folder", "parquet", "npz", "hf")


@pytest.fixture
def many() -> Images:
    """60 random grey images of 12 classes, in 7x5 pixels."""
    gen = torch.Generator().manual_seed(1)
    return Images(
        torch.randint(256, (60, 1, 7, 5), generator=gen, dtype=torch.uint8), torch.arange(60) % 12, 12
    )


def give(images: Images, folder: Path, form: Form, split: str = "train", **record: object) -> Path:
    index = torch.arange(len(images)) * 3
    return export.export(images, index, folder, form, split=split, record=record)


def hwc(images: Images) -> np.ndarray:
    return images.x.permute(0, 2, 3, 1).numpy()


def test_torchvision_reads_the_folders(many: Images, images: Images, tmp_path: Path) -> None:
    for name, some in (("grey", many), ("rgb", images)):
        place = give(some, tmp_path / name, "image_folder")
        assert place == tmp_path / name / "train"
        found = ImageFolder(str(place), loader=lambda path: np.asarray(Image.open(path)))
        digits = len(str(some.num_classes - 1))
        assert found.classes == [f"{k:0{digits}}" for k in range(some.num_classes)]
        assert len(found) == len(some)
        for (path, _), (pixels, label) in zip(found.imgs, found, strict=True):
            row = int(Path(path).stem) // 3
            assert np.array_equal(pixels.reshape(hwc(some)[row].shape), hwc(some)[row])
            assert label == some.y[row]
        assert len({len(Path(path).stem) for path, _ in found.imgs}) == 1, "names sort as numbers do"


def test_our_sources_read_what_we_export(many: Images, images: Images, tmp_path: Path) -> None:
    for name, some in (("grey", many), ("rgb", images)):
        for split in ("train", "test"):
            give(some, tmp_path / name / "folder", "image_folder", split)
            give(some, tmp_path / name / "parquet", "parquet", split)
        folder = FolderSource(root=str(tmp_path / name / "folder"), grey=name == "grey").load("test")
        order = torch.argsort(some.y, stable=True)
        assert torch.equal(folder.x, some.x[order])
        assert torch.equal(folder.y, some.y[order])
        where = f"{tmp_path / name}/parquet"
        table = Parquet(train=f"{where}/train-*", test=f"{where}/test-*", grey=name == "grey").load("train")
        assert torch.equal(table.x, some.x)
        assert torch.equal(table.y, some.y)


def test_names_of_classes_are_kept(store: Store, tmp_path: Path) -> None:
    spec = DataSpec.parse({"limit": 20}, "test").pinned()
    images, names = store.ensure(spec), ["cat", "no", "a: 'b' \"c\"", "é猫", *"456789"]
    record = (store.record(spec) or {}) | {"class_names": names}
    index = read_index(images.file)
    place = export.export(images, index, tmp_path / "parquet", "parquet", split="train", record=record)
    assert datasets.Features.from_arrow_schema(pq.read_schema(place))["label"].names == names
    assert Parquet(train=str(place), test=str(place)).open("train").class_names == tuple(names)
    export.export(images, index, tmp_path / "hf", "hf", split="train", record=record)
    head = yaml.safe_load((tmp_path / "hf" / "README.md").read_text().split("---")[1])
    (label,) = (field for field in head["dataset_info"]["features"] if field["name"] == "label")
    assert label["dtype"]["class_label"]["names"] == {str(k): name for k, name in enumerate(names)}


def test_numpy_reads_the_npz_without_pickle(many: Images, images: Images, tmp_path: Path) -> None:
    for name, some in (("grey", many), ("rgb", images)):
        place = give(some, tmp_path / name, "npz")
        assert place.name == "train.npz"
        with np.load(place, allow_pickle=False) as found:
            assert set(found.files) == {"x", "y", "index"}
            assert found["x"].dtype == np.uint8
            assert np.array_equal(found["x"], hwc(some))
            assert found["y"].dtype == np.int64
            assert np.array_equal(found["y"], some.y.numpy())
            assert np.array_equal(found["index"], np.arange(len(some)) * 3)


LOAD = """
import json, sys, numpy as np
from datasets import load_dataset
how = json.loads(sys.argv[1])
for split, found in load_dataset(**how).items():
    found = found.with_format("numpy")
    x = np.stack([np.asarray(row["img"]) for row in found])
    np.savez(f"{sys.argv[2]}/{split}.npz", x=x, y=np.array(found["label"]))
    features = found.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    print(json.dumps([split, kinds, features["label"].names]))
"""


def loaded(how: dict[str, object], out: Path) -> dict[str, object]:
    """What Hugging Face's `datasets` reads, in a process of its own, without the network."""
    out.mkdir()
    home = {"HF_HOME": str(out / "home"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(how), str(out)],
        capture_output=True,
        text=True,
        env=os.environ | home,
    )
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert all(kinds == {"img": "Image", "label": "ClassLabel"} for _, kinds, _ in rows)
    return {split: names for split, _, names in rows}


def test_hugging_face_reads_the_parquet_files(
    many: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poisons.store.build.CHUNK", 35 * 7)
    monkeypatch.setattr(export, "FILE", 2000)
    give(many, tmp_path / "a", "parquet")
    files = sorted(str(file) for file in (tmp_path / "a").glob("train-*.parquet"))
    assert len(files) > 1
    assert files[0].endswith(f"train-00000-of-{len(files):05}.parquet")
    names = loaded({"path": "parquet", "data_files": {"train": files}}, tmp_path / "out")
    assert names == {"train": [str(k) for k in range(12)]}
    found = np.load(tmp_path / "out" / "train.npz")
    assert np.array_equal(found["x"].reshape(60, 7, 5, 1), hwc(many))
    assert np.array_equal(found["y"], many.y.numpy())


def test_hugging_face_opens_the_folder_with_all_its_splits(store: Store, tmp_path: Path) -> None:
    specs = [
        DataSpec.parse({"limit": 40, **more}, "test").pinned()
        for more in ({"poison": "ops"}, {"split": "test"})
    ]
    for spec in specs:
        images = store.ensure(spec)
        index, record = read_index(images.file), store.record(spec)
        place = export.export(images, index, tmp_path / "hub", "hf", split=spec.split, record=record or {})
        assert place == tmp_path / "hub"
    names = loaded({"path": str(tmp_path / "hub")}, tmp_path / "out")
    assert names == {"train": [*"0123456789"], "test": [*"0123456789"]}
    for spec in specs:
        found, images = np.load(tmp_path / "out" / f"{spec.split}.npz"), store.ensure(spec)
        assert np.array_equal(found["x"], hwc(images))
        assert np.array_equal(found["y"], images.y.numpy())
    page = (tmp_path / "hub" / "README.md").read_text()
    head = yaml.safe_load(page.split("---")[1])
    assert [entry["split"] for entry in head["configs"][0]["data_files"]] == ["train", "test"]
    assert "# digits (train), poison: ops" in page
    provenance = json.loads((tmp_path / "hub" / "provenance.json").read_text())
    assert {name: one["key"] for name, one in provenance.items()} == {
        f"data/{spec.split}-*.parquet": spec.key for spec in specs
    }


def test_chunks_make_no_difference(many: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in FORMS:
        give(many, tmp_path / "whole" / form, form)
    monkeypatch.setattr("poisons.store.build.CHUNK", 35 * 7)
    for form in FORMS:
        give(many, tmp_path / "parts" / form, form)
    for form in ("image_folder", "npz"):
        one, other = ({f.relative_to(root): f.read_bytes() for f in root.rglob("*") if f.is_file()}
                      for root in (tmp_path / "whole" / form, tmp_path / "parts" / form))  # fmt: skip
        assert len(one) == {"image_folder": 61, "npz": 2}[form]
        assert one == other
    name = "train-00000-of-00001.parquet"
    one, other = (pq.ParquetFile(tmp_path / place / "parquet" / name) for place in ("whole", "parts"))
    assert one.read().equals(other.read())
    assert (one.num_row_groups, other.num_row_groups) == (1, 9)


@pytest.mark.parametrize("form", FORMS)
def test_existing_files_are_never_overwritten(form: Form, images: Images, tmp_path: Path) -> None:
    given = give(images, tmp_path / "a", form)
    assert given.exists()
    before = {file: file.read_bytes() for file in (tmp_path / "a").rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="exists already and is not overwritten: choose another folder"):
        give(images, tmp_path / "a", form)
    assert before == {file: file.read_bytes() for file in (tmp_path / "a").rglob("*") if file.is_file()}
    give(images, tmp_path / "a", form, split="test")
    assert len(json.loads((tmp_path / "a" / "provenance.json").read_text())) == 2, (
        "but another split has room"
    )


def test_files_of_others_are_never_overwritten(images: Images, tmp_path: Path) -> None:
    for number, (name, form) in enumerate(
        (("README.md", "hf"), ("provenance.json", "npz"), ("train", "image_folder"))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match=f"{name} exists already"):
            give(images, folder, form)  # type: ignore[arg-type]
        assert [(file.name, file.read_text()) for file in folder.iterdir()] == [(name, "mine")]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file exists already"):
        give(images, tmp_path / "file", "npz")


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from trainers import Images
from poisons.durable import StoreError
from poisons.exchange.export import export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
images = Images(torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 4, 4)
for form in sys.argv[2:]:
    size = 2000 if form == "image_folder" else 50_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        export(images, torch.arange(40), Path(sys.argv[1], form), form, split="train", record={})
    except StoreError as error:
        print(error)
"""


def test_a_disk_that_fills_leaves_nothing_and_says_what_is_needed(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "new"), *FORMS], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    rows = run.stdout.splitlines()
    assert len(rows) == 4
    assert all("it needs up to 1 MB" in line and "MB are free" in line for line in rows)
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_an_export_that_is_interrupted_leaves_nothing(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)  # the last of all
    with pytest.raises(KeyboardInterrupt):
        give(images, tmp_path / "a", "hf")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_images_that_no_png_can_hold_are_refused(tmp_path: Path) -> None:
    images = Images(torch.zeros((2, 5, 3, 3), dtype=torch.uint8), torch.arange(2), 2)
    with pytest.raises(InputError, match="1 or 3 channels, these images have 5: export an npz"):
        give(images, tmp_path / "a", "parquet")
    assert not (tmp_path / "a").exists()
    assert np.load(give(images, tmp_path / "a", "npz"))["x"].shape == (2, 3, 3, 5)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_reveals_nothing_about_this_machine(
    form: Form, images: Images, store: Store, tmp_path: Path
) -> None:
    private = tmp_path / "home" / "erika" / "secret-project"
    private.mkdir(parents=True)
    for split in ("train", "test"):
        images.save(private / f"{split}.pt")
    source = {"kind": "tensors", "train": str(private / "train.pt"), "test": str(private / "test.pt")}
    spec = DataSpec.parse({"source": source, "poison": "ops"}, "test").pinned()
    made = store.ensure(spec)
    warning = f"no checkpoint could be written: [Errno 28] No space left on device: '{private}/c d.pt' (box7)"
    record = (store.record(spec) or {}) | {"warnings": [warning], "class_names": ["/m/01", "b", "c", "d"]}
    record["environment"]["host"] = "box7"
    record["spec"]["crafted_on"] = {"kind": "parquet", "train": "https://me:pw@hub.org/a/b.parquet?token=1"}
    export.export(made, read_index(made.file), tmp_path / "out", form, split="train", record=record)
    texts = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(texts) > 1
    for word in ("erika", "secret-project", str(tmp_path), "box7", "pw@", "token"):
        assert not any(word.encode() in text for text in texts), word
    (public,) = json.loads((tmp_path / "out" / "provenance.json").read_text()).values()
    assert "host" not in public["environment"]
    assert public["environment"]["versions"]["torch"]
    assert public["spec"]["source"]["train"] == "train.pt"
    assert public["spec"]["source"]["fingerprint"] == spec.source.fingerprint
    assert public["spec"]["crafted_on"]["train"] == "https://hub.org/a/b.parquet"
    assert public["warnings"] == [
        "no checkpoint could be written: [Errno 28] No space left on device: 'c d.pt' ([host])"
    ]
    assert public["class_names"] == record["class_names"]
    assert public["files"] == record["files"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("within 8/255 of N,H,W/C and 3/4", "within 8/255 of N,H,W/C and 3/4"),
        ("/home/a/b.pt: torn", "b.pt: torn"),
        ("see ~/data/x.npy, ~erika/y.npy", "see x.npy, y.npy"),
        ("at file:///srv/data/a.parquet", "at a.parquet"),
        ("at s3://bucket/a/b", "at s3://bucket/a/b"),
        ("at https://u:p@host/a?sig=1#x.", "at https://host/a"),
        (r"C:\Users\erika\a.pt", "a.pt"),
        ("on box7 (box7-2 is another)", "on [host] (box7-2 is another)"),
    ],
)
def test_paths_in_text_are_reduced_to_their_last_part(text: str, expected: str) -> None:
    assert public_text(text, "box7") == expected
