"""Sources give the same images everywhere, and name the file or row that they cannot use."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from poisons import DataSpec, Store
from poisons.sources.base import Source
from poisons.sources.digits import Digits
from poisons.sources.image_folder import ImageFolder
from poisons.sources.parquet import Parquet
from trainers import InputError


def png(seed: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> tuple[np.ndarray[Any, Any], bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG")
    return pixels, out.getvalue()


def write_parquet(
    file: Path, images: list[Any], labels: list[Any], names: tuple[str, str] = ("img", "label")
) -> None:
    column = pa.array(
        [{"bytes": raw, "path": None} for raw in images],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({names[0]: column, names[1]: pa.array(labels)}), file, row_group_size=2)


@pytest.fixture
def parquet(tmp_path: Path) -> Parquet:
    write_parquet(tmp_path / "train-0.parquet", [png(i)[1] for i in range(3)], [0, 1, 2])
    write_parquet(tmp_path / "train-1.parquet", [png(3)[1]], [1])
    write_parquet(tmp_path / "test.parquet", [png(9)[1]], [0])
    return Parquet(train=f"{tmp_path}/train-*.parquet", test=f"{tmp_path}/test.parquet")


def test_digits_are_split_alike_in_every_class() -> None:
    train, test = Digits().load("train"), Digits().load("test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.shape == (3, 32, 32)
    shares = torch.bincount(test.y) / (torch.bincount(test.y) + torch.bincount(train.y))
    assert ((shares > 0.19) & (shares <= 0.2)).all()


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = torch.cat([Digits().load("train").x, Digits().load("test").x])
    grey = torch.nn.functional.avg_pool2d(ours[:, :1].double(), 4) / 255 * 16
    assert len(ours) == len(theirs.images)
    assert abs(float(grey.mean()) - theirs.images.mean()) < 0.05
    assert torch.equal(ours[:, 0], ours[:, 2])


def test_digits_come_in_any_size_each_a_data_set_of_its_own() -> None:
    small, usual = Digits(size=8), Digits(size=32)
    grey = small.load("test").x[:, 0]
    assert sorted(set(grey.flatten().tolist())) == [round(level * 255 / 16) for level in range(17)]
    assert small.measure() != usual.measure() == Digits().measure()
    assert Digits(size=96).load("test").shape == (3, 96, 96)
    assert torch.equal(small.load("train").y, usual.load("train").y)


def test_parquet_gives_the_bytes_in_the_order_of_the_files(parquet: Parquet) -> None:
    train = parquet.load("train")
    expected = np.stack([png(i)[0] for i in range(4)]).transpose(0, 3, 1, 2)
    assert torch.equal(train.x, torch.from_numpy(expected.copy()))
    assert train.y.tolist() == [0, 1, 2, 1]
    assert parquet.load("test").num_classes == 3


def test_a_url_reads_as_a_path_does(parquet: Parquet, tmp_path: Path) -> None:
    url = Parquet(train=f"file://{tmp_path}/train-*.parquet", test=f"file://{tmp_path}/test.parquet")
    assert url.measure() == parquet.measure()
    assert torch.equal(url.load("train").x, parquet.load("train").x)
    import fsspec

    with fsspec.open("memory://set/train.parquet", "wb") as out:
        out.write((tmp_path / "train-0.parquet").read_bytes())
    remote = Parquet(train="memory://set/train.parquet", test="memory://set/train.parquet").pinned()
    assert remote.train == "memory://set/train.parquet"
    assert len(remote.load("train")) == 3


def test_the_key_follows_the_bytes_not_the_place(parquet: Parquet, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in tmp_path.glob("*.parquet"):
        (elsewhere / file.name).write_bytes(file.read_bytes())
    moved = Parquet(train=f"{elsewhere}/train-*.parquet", test=f"{elsewhere}/test.parquet")
    key = DataSpec(source=parquet).pinned().key
    assert DataSpec(source=moved).pinned().key == key
    write_parquet(elsewhere / "test.parquet", [png(10)[1]], [0])
    assert DataSpec(source=moved).pinned().key != key


def test_relative_paths_are_pinned_to_where_they_are(
    parquet: Parquet, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    near = Parquet(train="train-*.parquet", test="test.parquet").pinned()
    monkeypatch.chdir("/")
    assert near.fingerprint == parquet.measure()
    assert len(near.load("train")) == 4


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([png(0)[1], b"no image"], [0, 1], r"bad\.parquet, row 1 is not an image that can be decoded"),
        ([png(0)[1], png(1)[1][:60]], [0, 1], r"bad\.parquet, row 1 is not an image that can be decoded"),
        ([png(0)[1], png(1, (7, 5))[1]], [0, 1], r"row 1 is 7x5 but .*row 0 is 6x5; .*resize or crop"),
        ([png(0)[1], None], [0, 1], r"bad\.parquet, row 1: no image bytes"),
        ([png(0)[1], png(1)[1]], [0, None], r"bad\.parquet, row 1: the label is missing"),
        ([png(0)[1], png(1)[1]], [0, -1], r"bad\.parquet, row 1: the label is -1"),
        ([png(0)[1], png(1)[1]], ["cat", "dog"], r"labels must be whole numbers, found .*string"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    tmp_path: Path, store: Store, images: list[Any], labels: list[Any], message: str
) -> None:
    write_parquet(tmp_path / "bad.parquet", images, labels)
    source = Parquet(train=f"{tmp_path}/bad.parquet", test=f"{tmp_path}/bad.parquet")
    with pytest.raises(InputError, match=message):
        store.ensure(DataSpec(source=source).pinned())
    assert list((store.root / "data").iterdir()) == []


def test_a_test_label_beyond_the_training_labels_is_named(parquet: Parquet, tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [png(9)[1], png(8)[1]], [0, 3])
    with pytest.raises(InputError, match=r"test\.parquet, row 1: label 3, but training labels end at 2"):
        parquet.load("test")


def test_an_empty_shard_is_no_harm_and_a_name_with_brackets_no_pattern(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a[1].parquet", [png(0)[1]], [0])
    write_parquet(tmp_path / "b-0.parquet", [], pa.array([], pa.int64()))
    write_parquet(tmp_path / "b-1.parquet", [png(1)[1]], [0])
    source = Parquet(train=f"{tmp_path}/b-?.parquet", test=f"{tmp_path}/a[1].parquet")
    assert (len(source.load("train")), len(source.load("test"))) == (1, 1)


@pytest.mark.parametrize("place", ["s3://bucket/x.parquet", "foo://x", "http://127.0.0.1:9/x.parquet"])
def test_a_place_that_cannot_be_opened_is_one_error(place: str) -> None:
    with pytest.raises(InputError, match=place.split(":", maxsplit=1)[0]):
        Parquet(train=place, test=place).pinned()


def test_images_of_more_than_8_bits_are_refused_not_clipped(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), 4000, dtype=np.uint16)).save(out, "PNG")
    write_parquet(tmp_path / "deep.parquet", [out.getvalue()], [0])
    source = Parquet(train=f"{tmp_path}/deep.parquet", test=f"{tmp_path}/deep.parquet")
    with pytest.raises(InputError, match=r"row 0 has more than 8 bits a channel"):
        source.load("train")


def test_parquet_mistakes_name_what_is_there(parquet: Parquet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column 'image'; it has: img, label"):
        parquet.model_copy(update={"image": "image"}).load("train")
    with pytest.raises(InputError, match=r"no file at .*nowhere"):
        Parquet(train=f"{tmp_path}/nowhere.parquet", test="x").pinned()
    (tmp_path / "test.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"test\.parquet cannot be read as Parquet"):
        parquet.load("test")


def folder(root: Path) -> ImageFolder:
    for split, classes in (("train", "abc"), ("test", "ab")):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                (root / split / name / f"{i}.png").write_bytes(png(10 * k + i, mode="L" if i else "RGB")[1])
            (root / split / name / "notes.txt").write_text("no image")
    return ImageFolder(root=str(root))


def test_an_image_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    source = folder(tmp_path)
    train = source.load("train")
    assert train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(train.x[0].permute(1, 2, 0), torch.from_numpy(png(0)[0]))
    assert torch.equal(train.x[1, 0], train.x[1, 2]), "grey-scale files become RGB"
    assert source.load("test").num_classes == 3
    before = source.measure()
    (tmp_path / "train" / "aa").mkdir()
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / ".hidden" / "0.png").write_bytes(png(0)[1])
    assert source.measure() == before
    assert source.load("train").y.tolist() == [0, 0, 1, 1, 2, 2], "a folder without images is no class"
    (tmp_path / "train" / "a" / "0.png").rename(tmp_path / "train" / "b" / "7.png")
    assert source.measure() != before, "a file in another class is another data set"


def test_image_folder_mistakes_are_named(tmp_path: Path) -> None:
    source = folder(tmp_path)
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"train/b/1\.png is not an image"):
        source.load("train")
    (tmp_path / "test" / "d").mkdir()
    (tmp_path / "test" / "d" / "0.png").write_bytes(png(0)[1])
    with pytest.raises(InputError, match=r"class 'd' has no images in .*train"):
        source.load("test")
    with pytest.raises(InputError, match=r"no folder .*has train/<class>/ and test/<class>/"):
        ImageFolder(root=str(tmp_path / "nowhere")).pinned()


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "svhn"])
def test_an_offline_machine_gets_one_error_with_the_ways_out(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    source = Source.parse({"kind": kind, "root": str(tmp_path)}, "test")
    with pytest.raises(
        InputError, match=r"could not be downloaded .*Ways out: .*parquet.*image_folder.*digits"
    ):
        source.load("train")


def test_cifar10_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny archive in CIFAR-10's own layout, with its checksums in torchvision's place."""
    import hashlib

    from torchvision.datasets import CIFAR10

    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for name, batch in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        rows = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (base / batch).write_bytes(pickle.dumps({"data": rows, "labels": [3, 1, 0, 9]}))
        lists[name].append([batch, hashlib.md5((base / batch).read_bytes()).hexdigest()])
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    meta = {**CIFAR10.meta, "md5": hashlib.md5((base / "batches.meta").read_bytes()).hexdigest()}
    for name, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(CIFAR10, name, value)
    source = Source.parse({"kind": "cifar10", "root": str(tmp_path)}, "test")
    images = source.load("test")
    assert source.present()
    assert torch.equal(images.x.flatten(1), torch.from_numpy(rows))
    assert images.y.tolist() == [3, 1, 0, 9]


def test_published_checksums_are_those_that_torchvision_verifies() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN

    published = {kind: Source.parse(kind, "test").measure() for kind in ("cifar10", "cifar100", "svhn")}
    assert published == {
        "cifar10": f"md5:{CIFAR10.tgz_md5}",
        "cifar100": f"md5:{CIFAR100.tgz_md5}",
        "svhn": f"md5:{SVHN.split_list['train'][2]}+{SVHN.split_list['test'][2]}",
    }


def test_real_cifar10_is_whole(cifar10: dict[str, str]) -> None:
    test = Source.parse(cifar10, "test").load("test")
    assert test.shape == (3, 32, 32)
    assert torch.bincount(test.y).tolist() == [1000] * 10
