"""Sources give the same images everywhere, and name the file or row that they cannot use."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from poisons import DataSpec, Store
from poisons.exchange.card import card
from poisons.sources.base import Source, digest
from poisons.sources.digits import Digits
from poisons.sources.image_folder import ImageFolder
from poisons.sources.parquet import Parquet
from poisons.sources.tensors import Tensors
from poisons.sources.torchvision_sets import Cifar10
from tests.conftest import Opsctl
from trainers import Images, InputError


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


def test_every_class_of_digits_is_split_in_the_same_ratio() -> None:
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


def test_digits_of_each_size_are_a_separate_data_set() -> None:
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


def test_the_key_depends_on_the_bytes_and_not_on_the_path(parquet: Parquet, tmp_path: Path) -> None:
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
        ([png(0)[1], png(1)[1]], [0.0, 1.0], r"labels must be whole numbers or text, found double"),
        ([png(0)[1], png(1)[1]], ["cat", None], r"bad\.parquet, row 1: the label is missing"),
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


def test_an_empty_shard_is_read_and_brackets_in_a_name_are_no_pattern(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"has no column 'image'; did you mean 'img'.* Known: img, label"):
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
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / ".hidden" / "0.png").write_bytes(png(0)[1])
    assert source.measure() == before
    assert source.load("train").y.tolist() == [0, 0, 1, 1, 2, 2], "hidden files are not read"
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
def test_an_offline_machine_gets_one_error_with_alternatives(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # a closed port
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


def test_real_cifar10_is_complete(cifar10: dict[str, str]) -> None:
    test = Source.parse(cifar10, "test").load("test")
    assert test.shape == (3, 32, 32)
    assert torch.bincount(test.y).tolist() == [1000] * 10


def test_links_are_followed_and_broken_ones_are_reported(tmp_path: Path) -> None:
    source, train = folder(tmp_path / "set"), tmp_path / "set" / "train"
    before = source.load("train")
    store = tmp_path / "elsewhere"
    (train / "a").rename(store)
    (train / "a").symlink_to(store)  # a class
    (train / "b" / "0.png").rename(store.with_name("one"))
    (train / "b" / "0.png").symlink_to(store.with_name("one"))  # a file
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.png").write_bytes(png(99)[1])
    (train / "c" / "more").symlink_to(tmp_path / "more")  # a folder inside a class
    after = source.load("train")
    assert torch.equal(after.x[:6], before.x)
    assert after.y.tolist() == [0, 0, 1, 1, 2, 2, 2]
    (train / "c" / "more" / "back").symlink_to(train)
    with pytest.raises(InputError, match=r"c/more/back is a link to a folder that contains it"):
        source.pinned()
    (train / "c" / "more" / "back").unlink()
    (train / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"train/lost is a link to .*nowhere, which does not exist"):
        source.pinned()


def test_a_pipe_with_the_name_of_an_image_does_not_block(tmp_path: Path) -> None:
    source = folder(tmp_path)
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png has the name of an image but is not a file"):
        source.pinned()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_an_image_that_can_be_read_is_an_error(split: str, tmp_path: Path) -> None:
    source = folder(tmp_path)
    for image in (tmp_path / split / "b").glob("*.png"):
        image.rename(image.with_suffix(".gif"))
    with pytest.raises(InputError, match=rf"{split}/b is a class folder, but has no .*such as 0\.gif"):
        source.pinned()


def test_file_names_that_are_not_text_are_read_and_printed(tmp_path: Path) -> None:
    source = folder(tmp_path)
    odd = os.fsdecode(b"caf\xe9::*")
    (tmp_path / "train" / "b" / "0.png").rename(tmp_path / "train" / "b" / f"{odd}.png")
    (tmp_path / "train" / "b" / f"{odd}.txt").write_text("no image")
    assert len(source.pinned().load("train")) == 6
    json.dumps(asdict(source.survey("train"))).encode()
    assert any(r"train/b/caf\xe9::*.txt" in line for line in source.survey("train").lines())


def test_skipped_files_are_in_the_record_and_on_the_card(tmp_path: Path, store: Store) -> None:
    source = folder(tmp_path)
    (tmp_path / "train" / "0.png").write_bytes(png(0)[1])
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "val").mkdir()
    spec = DataSpec(source=source, poison="randpix").pinned()  # type: ignore[arg-type]
    store.ensure(spec)
    for some in (spec.clean, spec):
        record = store.record(some) or {}
        assert record["class_names"] == ["a", "b", "c"]
        found = {group["reason"]: (group["count"], group["examples"]) for group in record["skipped"]}
        assert found.pop("in no class folder") == (1, ["train/0.png"])
        assert found.pop("hidden") == (1, ["train/.hidden"])
        assert list(found.values()) == [(3, [f"train/{name}/notes.txt" for name in "abc"])]
        lines = card(record)
        assert ("classes", "0 a, 1 b, 2 c") in lines
        assert ("source files", "1 not read (hidden): train/.hidden") in lines
    assert source.survey("test").notes == (
        "test/ has no images of 1 classes: c",
        "val/ is not read, since there is test/",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2**62], r"row 1: label 4611686018427387904, but there are 2 training images"),
        (pa.array([0, 2**64 - 1], pa.uint64()), r"row 1: label 18446744073709551615, but there are 2"),
        ([0, 2], r"row 1: label 2, but there are 2 training images"),
    ],
)
def test_an_impossible_label_is_refused_at_once(tmp_path: Path, labels: Any, message: str) -> None:
    write_parquet(tmp_path / "a.parquet", [png(0)[1], png(1)[1]], labels)
    with pytest.raises(InputError, match=message):
        Parquet(train=f"{tmp_path}/a.parquet", test=f"{tmp_path}/a.parquet").pinned()


def test_names_of_classes_that_have_no_images_are_kept(tmp_path: Path) -> None:
    """ClassLabel states the number of classes, which then is part of the key."""
    file = f"{tmp_path}/a.parquet"
    write_parquet(Path(file), [png(0)[1], png(1)[1]], [0, 1])
    source = Parquet(train=file, test=file)
    before = source.measure()
    features = {"img": {"_type": "Image"}, "label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pq.read_table(file).replace_schema_metadata(metadata), file)
    reading = source.open("train")
    assert (reading.num_classes, reading.class_names) == (3, ("cat", "dog", "emu"))
    assert source.measure() not in (before, digest([file, file], "img", "label", "1 for training"))


def test_files_that_disagree_on_their_classes_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [png(0)[1], png(1)[1]], ["cat", "dog"])
    source = Parquet(train=f"{tmp_path}/train.parquet", test=f"{tmp_path}/test.parquet")
    write_parquet(tmp_path / "test.parquet", [png(0)[1]], ["dig"])
    with pytest.raises(
        InputError, match=r"test\.parquet, row 0: no class is named 'dig'; did you mean 'dog'"
    ):
        source.pinned()
    write_parquet(tmp_path / "test.parquet", [png(0)[1]], [0])
    with pytest.raises(InputError, match=r"test\.parquet: labels are numbers, but training labels are text"):
        source.pinned()
    write_parquet(tmp_path / "test.parquet", [], pa.array([], pa.string()))
    with pytest.raises(InputError, match=r"test\.parquet holds no images"):
        source.pinned()


def test_tensors_that_make_no_sense_are_refused(tmp_path: Path, images: Images) -> None:
    source = Tensors(train=f"{tmp_path}/train.pt", test=f"{tmp_path}/test.pt")
    images.save(tmp_path / "test.pt")
    for x, classes, message in (
        (
            images.x,
            2**62,
            r"train\.pt: num_classes should be .* in 1\.\.1,048,576, found 4611686018427387904",
        ),
        (images.x, 41, r"train\.pt: num_classes is 41, more than its 40 images"),
        (images.x, "4", r"train\.pt: num_classes should be a whole number .*, found '4'"),
        (images.x[:, :, :16], 4, r"train\.pt holds images of 3x16x32 in 4 classes, but .*test\.pt holds"),
        (images.x[0], 4, r"train\.pt: labels must be int64 of shape \(3,\)"),
        (images.x[None], 4, r"train\.pt: images must be N,C,H,W or N,H,W,C, found the shape \(1, 40, 3"),
    ):
        torch.save({"x": x, "y": images.y, "num_classes": classes}, tmp_path / "train.pt")
        with pytest.raises(InputError, match=message):
            source.pinned()
    (tmp_path / "train.pt").write_bytes(pickle.dumps({"x": images.x.numpy(), "y": images.y.numpy()}))
    with pytest.raises(InputError, match=r"is a pickle: .*not read") as refused:
        source.pinned()
    assert "torch.save({'x'" in str(refused.value)


def test_a_plan_lists_skipped_files_and_rejects_a_missing_column(tmp_path: Path, opsctl: Opsctl) -> None:
    folder(tmp_path / "set")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"name: a\nquestion: b?\nbase:\n  data: {{source: {{kind: image_folder, root: {tmp_path}/set}}}}\n"
        "  train: {architecture: {kind: resnet18, width: 4}, epochs: 1}\ngrid: {seed: [0]}\n"
    )
    code, out, err = opsctl("plan", sweep)
    assert code == 0, err
    assert re.search(r"source image_folder .*/set \(train\): 3 not read \(.*\): train/a/notes\.txt", out), out
    write_parquet(tmp_path / "a.parquet", [png(0)[1], png(1)[1]], [0, 1])
    places = f"train: {tmp_path}/a.parquet, test: {tmp_path}/a.parquet, image: imgs"
    base = f"base: {{data: {{source: {{kind: parquet, {places}}}}}}}"
    sweep.write_text(f"name: a\nquestion: b?\n{base}\ngrid: {{seed: [0]}}\n")
    code, _, err = opsctl("plan", sweep)
    assert code == 2
    assert "has no column 'imgs'; did you mean 'img'? Known: img, label" in re.sub(r"\s+", " ", err)


@pytest.mark.parametrize("label", [2**62, 10**7, 2**63 - 1, -1, -(2**62)])
def test_a_label_that_is_no_class_is_refused_at_once(label: int, tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [png(i)[1] for i in range(3)], [0, label, 1])
    source = Parquet(train=f"{tmp_path}/a.parquet", test=f"{tmp_path}/a.parquet")
    with pytest.raises(
        InputError, match=r"row 1: (the label is -|label \d+, but there are 3 training images)"
    ):
        source.pinned()
    for path in (tmp_path / "train.pt", tmp_path / "test.pt"):
        torch.save(
            {
                "x": torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
                "y": torch.tensor([0, label]),
                "num_classes": 2,
            },
            path,
        )
    with pytest.raises(InputError, match=r"train\.pt: labels must lie in 0\.\.1"):
        Tensors(train=f"{tmp_path}/train.pt", test=f"{tmp_path}/test.pt").pinned()


@pytest.mark.parametrize("labels", [[0.0, 1.0, 0.0], [True, False, True], [None, 0, 1], [[0], [1], [0]]])
def test_labels_are_whole_numbers_or_text(labels: list[Any], tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [png(i)[1] for i in range(3)], labels)
    with pytest.raises(InputError, match=r"labels must be whole numbers or text, found|the label is missing"):
        Parquet(train=f"{tmp_path}/a.parquet", test=f"{tmp_path}/a.parquet").pinned()


def bomb(file: Path, width: int, height: int) -> bytes:
    """A small PNG of very many pixels."""
    Image.new("1", (width, height)).save(file)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9_000, 9_000), r"is 9000x9000, more than 67,108,864 pixels, the limit for decoding"),
        (
            (7_000, 9_000),
            r"1\.png is 9000x7000 but .*0\.png is 6x5; all images of a source must have one size",
        ),
    ],
)
def test_an_image_that_is_too_large_is_refused_by_its_header(
    size: tuple[int, int], message: str, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "0.png").write_bytes(png(0)[1])
    raw = bomb(tmp_path / "train" / "a" / "1.png", *size)
    assert len(raw) < 20_000
    with pytest.raises(InputError, match=message):
        ImageFolder(root=str(tmp_path)).load("train")
    write_parquet(tmp_path / "a.parquet", [png(0)[1], raw], [0, 0])
    with pytest.raises(InputError, match=message.replace(r"1\.png", "row 1").replace(r"0\.png", "row 0")):
        Parquet(train=f"{tmp_path}/a.parquet", test=f"{tmp_path}/a.parquet").load("train")


def test_no_program_is_started_for_an_image(tmp_path: Path) -> None:
    """Pillow passes PostScript to Ghostscript, whatever the file name."""
    out = io.BytesIO()
    Image.new("RGB", (5, 6)).save(out, "EPS")
    write_parquet(tmp_path / "a.parquet", [out.getvalue()], [0])
    with pytest.raises(InputError, match=r"row 0 is not an image that can be decoded \(cannot identify"):
        Parquet(train=f"{tmp_path}/a.parquet", test=f"{tmp_path}/a.parquet").load("train")


@pytest.mark.parametrize("kind", ["pipe", "device", "cycle"])
def test_pipes_and_devices_are_no_sources(kind: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "0.png").write_bytes(png(0)[1])
    for path in (tmp_path / "train" / "a" / "1.png", tmp_path / "a.parquet", tmp_path / "a.pt"):
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero" if kind == "device" else path.name)
    with pytest.raises(InputError, match=r"1\.png (has the name of an image but is not a file|is a link to)"):
        ImageFolder(root=str(tmp_path)).pinned()
    with pytest.raises(InputError, match="no file at"):
        Parquet(train=f"{tmp_path}/a.parquet", test=f"{tmp_path}/a.parquet").pinned()
    with pytest.raises(InputError, match="no file at"):
        Tensors(train=f"{tmp_path}/a.pt", test=f"{tmp_path}/a.pt").pinned()


def test_torchvision_does_not_block_on_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    os.mkfifo(tmp_path / "cifar-10-batches-py" / "data_batch_1")
    with pytest.raises(InputError, match=r"data_batch_1 is not an ordinary file"):
        Cifar10(root=str(tmp_path)).load("train")
