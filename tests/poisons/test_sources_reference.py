"""A source reads what its reference reads: torchvision's ImageFolder, Hugging Face's `datasets`, an array's own axes.
Bytes, labels and counts are equal, whatever the mode, the format, the tree and the names."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.datasets import ImageFolder as Reference
from torchvision.datasets.folder import IMG_EXTENSIONS

from poisons.exchange.importing import read_foreign
from poisons.sources.base import digest
from poisons.sources.image_folder import ImageFolder
from poisons.sources.image_tree import SUFFIXES
from poisons.sources.parquet import Parquet
from poisons.sources.tensors import Tensors
from trainers import Images, InputError

# Pillow warns where it drops a palette's transparency, for us as for the references
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")
SIDE = 6
MODES = {  # that a format can hold, in 8 bits a channel
    "PNG": ["RGB", "RGBA", "L", "LA", "P", "1"],
    "JPEG": ["RGB", "L", "CMYK"],
    "BMP": ["RGB", "L", "P", "1"],
    "PPM": ["RGB", "L", "1"],
    "TIFF": ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"],
    "WEBP": ["RGB", "RGBA"],
}
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".ppm": "PPM", ".bmp": "BMP", ".pgm": "PPM",
           ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"}  # fmt: skip
WITH_EXIF = ("PNG", "JPEG", "TIFF", "WEBP")


def encoded(form: str, mode: str, seed: int, orientation: int | None = None) -> bytes:
    """A square image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    image = Image.fromarray(noise)
    image = image.convert(mode if mode == "RGBA" else "RGB")
    if mode == "P" and seed % 2:
        image = image.quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16)) if form == "PNG" else 3
    image, options = image.convert(mode), {}
    if form in WITH_EXIF and orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"exif": exif.tobytes()}
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


@st.composite
def pictures(draw: st.DrawFn, form: str | None = None) -> bytes:
    form = form or draw(st.sampled_from(sorted(MODES)))
    orientation = draw(st.none() | st.integers(1, 8))
    return encoded(form, draw(st.sampled_from(MODES[form])), draw(st.integers(0, 999)), orientation)


NAMES = st.one_of(
    st.integers(0, 120).map(str),
    st.text(st.sampled_from("abzAZ019 _-.#%*[]:~é猫"), min_size=1, max_size=6).filter(
        lambda name: name[0] != "."
    ),
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of a split by their paths: classes, some with folders inside, and some files that are no images."""
    files = dict[str, bytes]()
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        for place in draw(
            st.lists(st.sampled_from(["", "in/", "in.a/", "in/deep/", "z/"]), min_size=1, max_size=3)
        ):
            suffix = draw(st.sampled_from(sorted(FORMATS)))
            raw = draw(pictures(FORMATS[suffix]))
            files[f"{name}/{place}{draw(NAMES)}{draw(st.sampled_from([suffix, suffix.upper()]))}"] = raw
        if draw(st.booleans()):
            files[f"{name}/notes{draw(st.sampled_from(['.txt', '.gif', '', '.png.part']))}"] = b"no image"
    return files


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, raw in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)


def pixels(images: list[Any]) -> torch.Tensor:
    """uint8 N,C,H,W of Pillow's images."""
    arrays = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(arrays.reshape(*arrays.shape[:3], -1).transpose(0, 3, 1, 2).copy())


def test_every_suffix_of_torchvision_is_read() -> None:
    assert set(SUFFIXES) == set(IMG_EXTENSIONS) == set(FORMATS)


@settings(max_examples=40)
@given(files=trees(), grey=st.booleans())
def test_an_image_folder_is_read_as_torchvision_reads_it(files: dict[str, bytes], grey: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "train", files)
        write(root / "test", files)
        source = ImageFolder(root=folder, grey=grey)
        loader = (lambda file: Image.open(file).convert("L")) if grey else None
        theirs = Reference(root / "train", **({"loader": loader} if loader else {}))
        ours, reading = source.load("train"), source.open("train")
        assert torch.equal(ours.x, pixels([image for image, _ in theirs]))
        assert ours.y.tolist() == theirs.targets
        assert list(reading.class_names) == theirs.classes
        assert [str(root / "train" / name) for name in reading.file_names] == [
            file for file, _ in theirs.samples
        ]
        skipped = sum(group["count"] for group in source.survey("train").skipped)
        assert len(ours) + skipped == len(files), "a file is read or listed"
        assert torch.equal(source.load("test").x, ours.x)


@pytest.mark.parametrize("kind", ["I;16", "I", "F"])
def test_images_of_more_bits_are_refused_where_torchvision_clips_them(kind: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / split, {"a/0.png": encoded("PNG", "RGB", 0)})
    image = Image.fromarray(
        np.full((SIDE, SIDE), 4000, {"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind])
    )
    image.save(tmp_path / "train" / "a" / "1.tif")
    with pytest.raises(InputError, match=r"1\.tif has more than 8 bits a channel"):
        ImageFolder(root=str(tmp_path)).load("train")


LABELS = st.sampled_from(["int64", "int8", "uint16", "ClassLabel", "string", "large_string", "dictionary"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, str]:
    """A table in a common format, and how its labels are specified."""
    images = draw(st.lists(pictures(), min_size=2, max_size=5))
    kind, mode = draw(LABELS), draw(st.sampled_from([None, None, "RGB", "L"]))
    names = draw(st.lists(NAMES, min_size=len(images), max_size=6, unique=True))
    numbers = [0, *(draw(st.integers(0, len(images) - 1)) for _ in images[1:])]
    label = {
        "ClassLabel": lambda: pa.array(numbers, pa.int64()),
        "string": lambda: pa.array([names[k] for k in numbers]),
        "large_string": lambda: pa.array([names[k] for k in numbers], pa.large_string()),
        "dictionary": lambda: pa.array([names[k] for k in numbers]).dictionary_encode(),
    }.get(kind, lambda: pa.array(numbers, kind))()
    features: dict[str, Any] = {"image": {"_type": "Image"} | ({"mode": mode} if mode else {})}
    if kind == "ClassLabel":
        features["label"] = {"names": names, "_type": "ClassLabel"}
    column = pa.array([{"bytes": raw, "path": f"{i}"} for i, raw in enumerate(images)],
                      pa.struct([("bytes", pa.binary()), ("path", pa.string())]))  # fmt: skip
    table = pa.table({"image": column, "label": label})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), kind


def theirs(table: pa.Table, kind: str) -> tuple[list[Any], list[int], list[str] | None]:
    """Pillow's images, labels, and names of classes, as `datasets` has them."""
    found = datasets.Dataset(table)
    feature = found.features["label"]
    if kind in ("string", "large_string", "dictionary"):
        names = sorted(set(found["label"]))  # what class_encode_column does; see the test below
        return list(found["image"]), [names.index(text) for text in found["label"]], names
    return list(found["image"]), list(found["label"]), getattr(feature, "names", None)


@settings(max_examples=40)
@given(made=tables(), grey=st.booleans(), groups=st.integers(1, 3))
def test_parquet_is_decoded_as_datasets_decodes_it(
    made: tuple[pa.Table, str], grey: bool, groups: int
) -> None:
    table, kind = made
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "a.parquet")
        pq.write_table(table, file, row_group_size=groups)
        images, labels, names = theirs(pq.read_table(file), kind)
        source = Parquet(train=file, test=file, image="image", grey=grey)
        source.measure()
        ours, reading = source.load("train"), source.open("train")
    assert torch.equal(ours.x, pixels([image.convert("L" if grey else "RGB") for image in images]))
    assert ours.y.tolist() == labels
    assert ours.num_classes == (len(names) if names else max(labels) + 1)
    assert list(reading.class_names) == (names or [])


def test_text_is_numbered_as_class_encode_column_numbers_it(tmp_path: Path) -> None:
    """And the whole way through `load_dataset`, once."""
    raw = [encoded("JPEG", "RGB", i, orientation=i % 8 + 1) for i in range(9)]
    names = ["dog", "10", "2", "cat", "Cat", "é", "2", "dog", "_"]
    made = datasets.Dataset.from_dict(
        {"image": [{"bytes": image, "path": None} for image in raw], "label": names},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    file = str(tmp_path / "a.parquet")
    made.to_parquet(file)
    found = datasets.load_dataset(
        "parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache")
    )
    found = found.class_encode_column("label")
    reading = Parquet(train=file, test=file, image="image").open("train")
    ours = reading.take(torch.arange(9))
    assert torch.equal(ours.x, pixels([image.convert("RGB") for image in found["image"]]))
    assert ours.y.tolist() == list(found["label"])
    assert list(reading.class_names) == found.features["label"].names


@pytest.mark.parametrize("form", WITH_EXIF)
@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
def test_a_key_moves_only_where_images_are_read_in_another_way(
    form: str, orientation: int | None, tmp_path: Path
) -> None:
    """Images that EXIF turns had another meaning once; all other files keep the fingerprint that they had."""
    file = tmp_path / "a.parquet"
    image = {"bytes": encoded(form, "RGB", 1, orientation), "path": None}
    pq.write_table(pa.table({"img": [image], "label": [0]}), file)
    before = digest([str(file), str(file)], "img", "label", "1 for training")
    turned = orientation in (3, 6) and form != "TIFF"  # Pillow turns TIFF files itself, and did before
    assert (Parquet(train=str(file), test=str(file)).measure() != before) == turned


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_an_orientation_in_xmp_counts_as_in_datasets(form: str, tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": xmp}
    if form == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    sink, file = io.BytesIO(), tmp_path / "a.parquet"
    Image.open(io.BytesIO(encoded("PNG", "RGB", 1))).save(sink, form, **options)
    pq.write_table(pa.table({"img": [{"bytes": sink.getvalue(), "path": None}], "label": [0]}), file)
    source = Parquet(train=str(file), test=str(file))
    theirs = datasets.Image().decode_example({"bytes": sink.getvalue(), "path": None})
    assert torch.equal(source.load("train").x, pixels([theirs]))
    assert source.measure() != digest([str(file)] * 2, "img", "label", "1 for training")


@settings(max_examples=60)
@given(
    c=st.sampled_from([1, 3, 3, 4, 2, 13]), h=st.integers(5, 20), w=st.integers(5, 20), last=st.booleans(),
    flat=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_tensors_and_import_agree_on_the_layout_of_an_array(
    c: int, h: int, w: int, last: bool, flat: bool, seed: int
) -> None:
    h, w = max(h, c + 1), max(w, c + 1)
    gen = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (4, c, h, w), generator=gen, dtype=torch.uint8)
    stored = x[:, 0] if flat and c == 1 else x.permute(0, 2, 3, 1).contiguous() if last else x
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.pt"
        torch.save({"x": stored, "y": torch.tensor([0, 1, 0, 1]), "num_classes": 2}, file)
        source = Tensors(train=str(file), test=str(file))
        fingerprint, images, unmoved = source.measure(), source.load("train"), digest([str(file)] * 2)
        black = Images(torch.zeros_like(x), images.y, 2)
        delta, _ = read_foreign(file, black)
    assert torch.equal(images.x, x)
    assert images.x.is_contiguous()
    assert torch.equal(delta.apply(black).x, x)
    assert (fingerprint == unmoved) == (stored.shape == x.shape or stored.ndim == 3)
