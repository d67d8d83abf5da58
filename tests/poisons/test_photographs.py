"""Photographs of many sizes are made into one as torchvision makes them, in memory that does not grow with their
number."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from poisons.sources.fit import Fit
from poisons.sources.image_folder import ImageFolder
from tests.photographs import photographs, picture
from trainers import InputError


@given(
    width=st.integers(20, 130),
    height=st.integers(20, 130),
    resize=st.none() | st.integers(16, 140),
    size=st.none() | st.integers(1, 20),
    mode=st.sampled_from(["RGB", "L"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_images_are_fitted_as_by_torchvision(
    width: int, height: int, resize: int | None, size: int | None, mode: str, seed: int
) -> None:
    if size is not None and resize is not None:
        size = min(size, resize)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    steps = [*([Resize(resize)] if resize else []), *([CenterCrop(size)] if size else [])]
    theirs, ours = Compose(steps)(image), Fit(resize, size)(image, "it")
    assert ours.size == theirs.size
    assert ours.tobytes() == theirs.tobytes()


def test_photographs_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    root = photographs(tmp_path, classes=2, train=4, val=2)
    source = ImageFolder(root=str(root), resize=72, size=64)
    usual = Compose([Resize(72), CenterCrop(64)])
    for split, folder in (("train", "train"), ("test", "val")):
        images = source.load(split)  # type: ignore[arg-type]
        files = sorted((root / folder).rglob("*.JPEG"))
        theirs = [np.asarray(usual(Image.open(file).convert("RGB"))) for file in files]
        assert torch.equal(images.x.permute(0, 2, 3, 1), torch.from_numpy(np.stack(theirs)))
        assert images.y.tolist() == [int(file.parent.name[1:]) for file in files]
        assert images.num_classes == 2


def test_the_first_classes_are_a_data_set_of_their_own(tmp_path: Path) -> None:
    root = photographs(tmp_path / "whole", classes=4, train=2, val=1)
    few = ImageFolder(root=str(root), classes=2, resize=32, size=32)
    alone = photographs(tmp_path / "part", classes=2, train=2, val=1)
    assert few.measure() == ImageFolder(root=str(alone), resize=32, size=32).measure()
    assert few.load("train").num_classes == few.load("test").num_classes == 2
    assert few.load("train").y.tolist() == [0, 0, 1, 1]
    assert few.load("test").y.tolist() == [0, 1]
    (root / "val" / "n00000003" / "0.JPEG").unlink()
    before = few.measure()
    assert before == few.measure(), "files of other classes do not matter"
    shutil.rmtree(root / "val" / "n00000001")
    assert few.measure() != before


def test_how_images_are_read_is_in_the_fingerprint(tmp_path: Path) -> None:
    root = str(photographs(tmp_path, classes=1, train=1, val=1))
    fits = [(None, None), (32, None), (None, 32), (32, 32), (33, 32)]
    found = {ImageFolder(root=root, resize=resize, size=size).measure() for resize, size in fits}
    assert len(found) == len(fits)


def test_the_test_folder_is_preferred_to_val(tmp_path: Path) -> None:
    root = photographs(tmp_path, classes=2, train=1, val=1)
    source = ImageFolder(root=str(root), resize=16, size=16)
    assert len(source.load("test")) == 2
    (root / "test" / "n00000000").mkdir(parents=True)
    for i in range(3):
        picture(np.array([99, 99, 99]), (40, 30), seed=i).save(root / "test" / "n00000000" / f"{i}.png")
    assert source.load("test").y.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 64, "resize": 48}, r"size 64 cuts more than the 48 pixels .* write resize: 64 or more"),
        ({"classes": 3}, r"classes: 3 of .*train, which has only 2 folders with images"),
        ({"size": 400}, r"0\.JPEG is 375x500, too small to cut 400x400 from; write resize: 400 or more"),
        ({"resize": 48}, r"1\.JPEG is 48x72 but .*0\.JPEG is 48x64; .* with resize: 256, size: 224"),
        ({}, r"1\.JPEG is 333x500 but .*0\.JPEG is 375x500"),
    ],
)
def test_images_that_cannot_be_fitted_are_refused(
    tmp_path: Path, fields: dict[str, int], message: str
) -> None:
    root = photographs(tmp_path, classes=2, train=2, val=1)
    with pytest.raises(InputError, match=message):
        ImageFolder.parse({"root": str(root), **fields}, "test").load("train")


def test_validation_images_outside_class_folders_are_named(tmp_path: Path) -> None:
    root = photographs(tmp_path, classes=1, train=1, val=0)
    picture(np.array([9, 9, 9]), (40, 30), seed=0).save(root / "val" / "ILSVRC2012_val_1.JPEG")
    with pytest.raises(
        InputError, match=r"no images under .*val; expected <class>/.*ILSVRC2012_val_1\.JPEG and"
    ):
        ImageFolder(root=str(root)).measure()


BUILD_AND_TRAIN = """
import json, sys, threading, time
import torch
from poisons import DataSpec, Store
from trainers import TrainSpec, fit

def own():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def watch():
    while True:
        peak[0] = max(peak[0], own())
        time.sleep(0.005)

torch.set_num_threads(1)
given = json.loads(sys.argv[1])
store = Store(given["store"])
spec, small = TrainSpec.parse(given["train"], "train"), torch.device("cpu")
source = {"kind": "image_folder", "root": given["root"], "resize": 384, "size": 384}
data = DataSpec.parse({"source": source, "poison": "ops"}, "data").pinned()
peak = [own()]
start = peak[0]
threading.Thread(target=watch, daemon=True).start()
images = store.ensure(data)
built = peak[0]
row = fit(spec, images, store.ensure(data.clean).subset(8), seed=0, device=small).history[-1]
size = store.path(data).joinpath("data.arrow").stat().st_size
print(json.dumps({"size": size, "built": built - start, "trained": peak[0] - start, "loss": row["train/loss"]}))
"""


@pytest.mark.proof
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from Linux's /proc")
def test_a_data_set_larger_than_memory_is_built_and_trained_on(tmp_path: Path) -> None:
    """What a process has of its own, beside pages of files that the system may drop, stays a share of it: 200
    to 310 MB, mostly what its libraries and allocators keep."""
    root = photographs(tmp_path / "images", classes=3, train=20, val=1, links=800)
    architecture = {"kind": "resnet18", "width": 1, "stem": "imagenet"}
    train = {"architecture": architecture, "augmentations": [], "epochs": 1, "batch_size": 8}
    given = {"store": str(tmp_path / "store"), "root": str(root), "train": train}
    run = subprocess.run(
        [sys.executable, "-c", BUILD_AND_TRAIN, json.dumps(given)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(run.stdout)
    assert found["size"] > 840e6
    assert found["loss"] > 0
    assert found["built"] < 0.5 * found["size"]
    assert found["trained"] < 0.5 * found["size"]
