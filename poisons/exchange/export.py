"""Data sets in formats that other software reads: PNG files in folders, Parquet, npz, a folder for Hugging
Face."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from poisons.durable import StoreError, flush
from poisons.exchange.card import markdown
from poisons.exchange.picture import pillow
from poisons.store.build import per_chunk
from poisons.store.publication import public_record
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import MB, DamagedError, JsonFile

Form = Literal["image_folder", "parquet", "npz", "hf"]
FILE = 500_000_000  # bytes after which a new Parquet file begins


def export(
    images: Images, index: Tensor, folder: Path, form: Form, *, split: str, record: Mapping[str, Any]
) -> Path:
    """Write images into `folder`, losslessly, in the memory of one chunk; returns the path of the result.

    `image_folder`: `<split>/<class>/<index>.png`, as torchvision's ImageFolder reads it. `parquet`:
    `<split>-<i>-of-<n>.parquet`, as `datasets.load_dataset("parquet", data_files=...)` reads it. `npz`:
    `<split>.npz` with `x` uint8 N,H,W,C, `y` and `index` int64 N. `hf`: `README.md` and `data/`, as
    `datasets.load_dataset(folder)` reads them. The formats of `datasets` keep class names.

    `index` (int64 N) are the images' rows in the source; `record` goes into `provenance.json`, reduced by
    `public_record`. Everything appears, or nothing. InputError if it exists already, StoreError if it cannot
    be written.
    """
    folder = folder.expanduser()
    write, pattern = FORMS[form]
    target = pattern.format(split)
    known = _known(folder, target, readme=form == "hf") | {target: record}
    known = {name: public_record(one) for name, one in known.items()}
    home, stage = (folder / target).parent, folder / f".{split}.{os.getpid()}.tmp"
    try:
        (stage / "data").mkdir(parents=True)
        names = tuple(record.get("class_names") or map(str, range(images.num_classes)))
        write(_Content(images, index, split, names), stage / "data")
        (stage / "provenance.json").write_text(json.dumps(known, indent=1, allow_nan=False))
        if form == "hf":
            (stage / "README.md").write_text(_readme(known, names))
        places = _publish(stage, home, folder)
    except OSError as error:
        raise StoreError(_failed(folder, error, images)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for place in (home, folder):
            with suppress(OSError):  # removed if it is empty
                place.rmdir()
    return folder if len(places) != 1 or form == "hf" else places[0]


def _publish(stage: Path, home: Path, folder: Path) -> list[Path]:
    """Move the content of `stage` to its destination, all or nothing."""
    os.sync()  # once, since there may be very many files
    home.mkdir(exist_ok=True)
    moved = list[Path]()
    try:
        for file in sorted((stage / "data").iterdir()):
            os.rename(file, home / file.name)
            moved.append(home / file.name)
        for file in stage.glob("*.*"):
            os.replace(file, folder / file.name)
    except BaseException:
        for place in moved:
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink()
        raise
    flush(folder)
    return moved


@dataclass(frozen=True)
class _Content:
    """The content to write."""

    images: Images
    index: Tensor
    split: str
    class_names: tuple[str, ...]

    def chunks(self) -> Iterator[tuple[Images, list[int]]]:
        """Images, and their rows in the source."""
        at = 0
        for chunk in self.images.chunks(per_chunk(self.images)):
            yield chunk, self.index[at : at + len(chunk)].tolist()
            at += len(chunk)

    def encoded(self) -> Iterator[tuple[list[bytes], list[str], list[int]]]:
        """PNG files, their names, and labels, chunk by chunk."""
        channels, digits = self.images.shape[0], len(str(int(self.index.max())))
        if channels not in (1, 3):
            raise InputError(f"PNG files have 1 or 3 channels, these images have {channels}: export an npz")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for chunk, index in self.chunks():
                names = [f"{i:0{digits}}.png" for i in index]
                yield list(pool.map(png, _rows(chunk))), names, chunk.y.tolist()


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """uint8 H,W,C of one channel or three as a PNG file."""
    image, _, _ = pillow()
    sink = io.BytesIO()
    image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def _rows(images: Images) -> np.ndarray[Any, Any]:
    """uint8 N,H,W,C, contiguous."""
    return np.ascontiguousarray(images.x.cpu().permute(0, 2, 3, 1).numpy())


def _image_folder(content: _Content, stage: Path) -> None:
    """A class without images gets no folder, since torchvision refuses empty ones."""
    digits = len(str(content.images.num_classes - 1))
    root = stage / content.split
    for k in content.images.y.unique().tolist():
        (root / f"{k:0{digits}}").mkdir(parents=True)
    for files, names, labels in content.encoded():
        for raw, name, k in zip(files, names, labels, strict=True):
            (root / f"{k:0{digits}}" / name).write_bytes(raw)


def _parquet(content: _Content, stage: Path) -> None:
    chunks, files = content.encoded(), list[Path]()
    schema = _schema(content.class_names)
    group = next(chunks, None)
    while group is not None:
        files.append(stage / f"{len(files)}.parquet")
        with pq.ParquetWriter(files[-1], schema, compression="none", use_dictionary=False) as writer:
            while group is not None and files[-1].stat().st_size < FILE:
                raw, names, labels = group
                rows = [{"bytes": image, "path": name} for image, name in zip(raw, names, strict=True)]
                writer.write_table(pa.table({"img": rows, "label": labels}, schema=schema))
                group = next(chunks, None)
    for i, file in enumerate(files):
        file.rename(stage / f"{content.split}-{i:05}-of-{len(files):05}.parquet")


def _schema(class_names: tuple[str, ...]) -> pa.Schema:
    """A schema with the metadata that marks images and classes for Hugging Face `datasets`."""
    label = {"names": list(class_names), "_type": "ClassLabel"}
    features = {"img": {"_type": "Image"}, "label": label}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([("img", image), ("label", pa.int64())], metadata=metadata)


def _npz(content: _Content, stage: Path) -> None:
    images, (channels, height, width) = content.images, content.images.shape
    head = {"descr": "|u1", "fortran_order": False, "shape": (len(images), height, width, channels)}
    with zipfile.ZipFile(stage / f"{content.split}.npz", "w") as whole:
        with whole.open("x.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, head)
            for chunk, _ in content.chunks():
                stream.write(_rows(chunk).data)
        for name, column in (("y", images.y), ("index", content.index)):
            with whole.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, column.cpu().numpy(), allow_pickle=False)


PROVENANCE = JsonFile[dict[str, Any]](dict[str, dict[str, Any]], limit=256 * MB)
FORMS: dict[str, tuple[Callable[[_Content, Path], None], str]] = {
    "image_folder": (_image_folder, "{}"),
    "parquet": (_parquet, "{}-*.parquet"),
    "npz": (_npz, "{}.npz"),
    "hf": (_parquet, "data/{}-*.parquet"),
}


def _known(folder: Path, target: str, *, readme: bool) -> dict[str, Any]:
    """The provenance of earlier exports into `folder`. InputError if `target` is among them."""
    provenance = folder / "provenance.json"
    known: dict[str, Any] | None = {}
    try:
        known = PROVENANCE.read_file(provenance) or {}
    except DamagedError:
        known = None
    there = [*folder.glob(target)] or ([provenance] if known is None and provenance.exists() else [])
    if readme and not any(name.startswith("data/") for name in known or {}):
        there += folder.glob("README.md")
    if folder.exists() and not folder.is_dir():
        there = [folder]
    if there:
        raise InputError(f"{there[0]} exists already and is not overwritten: choose another folder")
    return known or {}


def _readme(known: Mapping[str, Any], class_names: tuple[str, ...]) -> str:
    """A Hub data set card: splits and features in YAML, then the cards in words."""
    targets = [name for name in known if name.startswith("data/")]
    lines = ["---", "task_categories:", "- image-classification", "configs:", "- config_name: default"]
    lines += ["  data_files:"]
    for target in targets:
        split = target.removeprefix("data/").removesuffix("-*.parquet")
        lines += [f"  - split: {split}", f"    path: {target}"]
    lines += ["dataset_info:", "  features:", "  - name: img", "    dtype: image"]
    lines += ["  - name: label", "    dtype:", "      class_label:", "        names:"]
    lines += [f"          '{k}': {json.dumps(name)}" for k, name in enumerate(class_names)]
    return "\n".join([*lines, "---", "", *(markdown(known[target]) for target in targets)])


def _failed(folder: Path, error: OSError, images: Images) -> str:
    here = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free, needed = shutil.disk_usage(here).free, images.x.numel() + 16 * len(images)
    return (
        f"{folder} could not be written ({error}); it needs up to {max(needed, 1e6) / 1e6:.0f} MB, "
        f"{free / 1e6:.0f} MB are free"
    )
