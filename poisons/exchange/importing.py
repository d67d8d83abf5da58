"""Imports perturbations made elsewhere: reads an array or a folder of images, checks it against the clean
images, and stores it."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poisons import arrow
from poisons.durable import StoreError, flush, put_aside, stamp, write_whole
from poisons.exchange.card import Tally
from poisons.exchange.imported_array import SLACK, Found, WholeLevels, levels, read_array
from poisons.exchange.imported_folder import MatchedFiles, match_files
from poisons.methods.imported import FILE, digest, read_import
from poisons.perturbations.delta import Application, Delta, Per
from poisons.records import RECORD
from poisons.sources.base import Reading
from poisons.sources.decode import Decoder
from poisons.sources.image_tree import read_bytes, shown
from poisons.store.build import per_chunk
from poisons.store.heap import large_blocks_go_back
from trainers.images import Images, to_float
from trainers.provenance import environment
from trainers.spec import InputError

FAR = 48  # levels; a larger mean change suggests other images, not noise
SEEN = 1000  # rows that tell images from noise


def read_foreign(
    path: Path,
    clean: Images,
    *,
    index: Tensor | None = None,
    reading: Reading | None = None,
    application: Application = "signed",
    eps: Fraction | None = None,
) -> tuple[Delta, dict[str, Any]]:
    """An imported perturbation of `clean`, and a report on it as JSON types: `change`, `warnings` and other
    facts.

    A .npy, .npz or .pt file holds noise, one per image, one per class or one for all, N,C,H,W or N,H,W,C:
    floats in [-1, 1], converted to levels according to `application`, or signed integers in levels; or it
    holds the poisoned images, as uint8 or as floats in [0, 1] that are closer to the clean images than to 0.
    If there are several arrays, it is the one named x, noise, perturbation or delta, or the only one of its
    rank. Labels (y, label, labels) are compared, and `index` gives rows in the source.

    A folder holds the poisoned images under the names of the clean ones in the source's tree, or as
    `<class>/<row in the source>.png`, or without class folders.

    `index` (int64 N) are the rows of `clean` in the source (default: all, in order), and `reading` has the
    names of files and classes there. Pickles are never read. InputError says what does not fit, and where. An
    `eps` that is exceeded is only reported.
    """
    with large_blocks_go_back():
        return _read_foreign(path.expanduser(), clean, index, reading, application, eps)


def _read_foreign(
    path: Path,
    clean: Images,
    index: Tensor | None,
    reading: Reading | None,
    application: Application,
    eps: Fraction | None,
) -> tuple[Delta, dict[str, Any]]:
    where = torch.arange(len(clean)) if index is None else index.cpu()
    matched_by = {}
    if path.is_dir():
        delta, matched = _from_folder(path, clean, where, reading)
        warnings, matched_by = matched.warnings, {"matched_by": matched.matched_by}
    elif path.exists():
        delta, warnings = _from_file(path, clean, where, application)
    else:
        raise InputError(f"there is no {path}; expected a .npy, .npz or .pt file, or a folder of images")
    change, doubts = _survey(delta, clean, eps)
    report = {
        "application": application,
        "per": delta.per,
        "labels_sha256": digest(clean.y),
        "change": change,
    }
    return delta, report | matched_by | {"warnings": warnings + doubts}


def store_import(root: Path, delta: Delta, report: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """Store a perturbation in the store at `root`, whole or not at all; returns its fingerprint. An existing
    import is not changed. `report` and `origin` go into the record. StoreError if it cannot be written."""
    labels = report.get("labels_sha256") if delta.per == "image" else "any"
    content = hashlib.sha256(f"{delta.kind} {delta.per} {tuple(delta.delta.shape)} {labels} ".encode())
    for part in delta.delta.split(1024):
        content.update(part.cpu().contiguous().numpy().data)
    fingerprint = content.hexdigest()[:16]
    write_import(root / "imports" / fingerprint, delta, {**report, **origin})
    return fingerprint


def write_import(folder: Path, delta: Delta, facts: Mapping[str, Any]) -> None:
    """Write a perturbation into `folder`, for `read_import`, unless it exists already."""
    stage = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    if read_import(folder) is not None:
        return
    try:
        stage.mkdir(parents=True)
        arrow.write(stage / FILE, delta.columns(), delta.to_json())
        flush(stage / FILE)
        record = {"file": stamp(stage / FILE), **facts, "environment": environment()}
        write_whole(stage / RECORD, record)
        put_aside(folder, folder.parent.parent / "quarantine")  # what is there is damaged
        os.rename(stage, folder)
        flush(folder.parent)
    except OSError as error:
        if read_import(folder) is None:  # else another process was first, with the same bytes
            needed = max(delta.delta.nbytes, 1e6) / 1e6
            raise StoreError(
                f"{folder} could not be written ({error}); it needs about {needed:.0f} MB"
            ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _from_file(path: Path, clean: Images, where: Tensor, application: Application) -> tuple[Delta, list[str]]:
    found = read_array(path, clean, where)
    per, rows, warnings = _rows(found, clean, where)
    _compare(found, rows, clean)
    if found.values.dtype == torch.uint8:
        if rows is None:
            raise InputError(
                f"{path} holds {found.count} uint8 images, which count as poisoned images, but "
                f"there are {len(clean)} clean ones; noise is stored as floats, or as signed integers"
            )
        return Delta(_minus(clean, lambda part: found.values[rows[part]])), warnings
    if rows is not None and _are_images(found.values[rows[:SEEN]], clean):
        images = partial(_pixels, found, rows, application)
        warning = "its floats are close to the clean images: they are read as the poisoned images"
        return Delta(_minus(clean, images)), [*warnings, warning]
    noise = levels(found, application)
    if rows is None:
        return Delta(noise, per), warnings
    in_order = len(rows) == len(noise) and torch.equal(rows, torch.arange(len(rows)))
    return Delta(noise if in_order else noise[rows]), warnings


def _are_images(some: Tensor, clean: Images) -> bool:
    """Whether floats for the first clean images are poisoned images, as some authors publish them, and not
    noise: none is negative, and they are closer to the clean images than to 0."""
    if not some.dtype.is_floating_point or bool((some < -SLACK).any()):
        return False
    x, some = to_float(clean.x[: len(some)].cpu()), some.float()
    return bool((some - x).abs().mean() < some.abs().mean())


def _pixels(found: Found, rows: Tensor, application: Application, part: slice) -> Tensor:
    """These rows of poisoned images in [0, 1] as uint8: rounded, or truncated as released code does."""
    values = found.values[rows[part]].double()
    bad = (~((values >= -SLACK) & (values <= 1 + SLACK)).flatten(1).all(1)).nonzero()
    if len(bad):
        raise InputError(
            f"{found.path}, row {int(rows[part][bad[0, 0]])}: the poisoned image has values outside [0, 1]"
        )
    scaled = (values * 255).clamp(0, 255)
    return (scaled.round() if application == "signed" else scaled.floor()).to(torch.uint8)


def _rows(found: Found, clean: Images, where: Tensor) -> tuple[Per, Tensor | None, list[str]]:
    """What the rows are per; the row of each clean image, if they are per image; warnings."""
    count = found.count
    if found.rows is not None:
        return "image", found.rows, []
    if count == len(clean):
        return "image", torch.arange(count), []
    if count == clean.num_classes:
        return "class", None, []
    if count == 1:
        return "universal", None, []
    if int(where.max()) < count:
        warning = f"it has {count} rows for {len(clean)} images: row i is assumed to be image i of the source"
        return "image", where, [warning]
    raise InputError(
        f"{found.path} has {count} rows, but there are {len(clean)} clean images of {clean.num_classes} "
        "classes: it needs one row for each image, one for each class, or one for all"
    )


def _compare(found: Found, rows: Tensor | None, clean: Images) -> None:
    """InputError unless the labels in the file, if there are any, equal those of the clean images."""
    if found.labels is None:
        return
    mine, expected = found.labels, clean.y.cpu()
    if rows is None and len(mine) == clean.num_classes:
        expected = torch.arange(clean.num_classes)
    if found.rows is None and rows is not None and len(mine) == found.count:
        mine = mine[rows]
    if len(mine) != len(expected):
        raise InputError(f"{found.path} has {len(mine)} labels for {found.count} rows")
    wrong = (mine != expected).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        raise InputError(
            f"{found.path}: image {row} has label {int(mine[row])}, but the clean image there has label "
            f"{int(expected[row])}: the order differs; store the rows in the source as `index`"
        )


def _minus(clean: Images, poisoned: Callable[[slice], Tensor]) -> Tensor:
    """The difference from the clean images; `poisoned(part)` returns the uint8 images of these rows."""
    delta, at = WholeLevels((len(clean), *clean.shape)), 0
    for chunk in clean.chunks(per_chunk(clean)):
        part = slice(at, at + len(chunk))
        delta.append(poisoned(part).to(torch.int16) - chunk.x.cpu())
        at += len(chunk)
    return delta.values()


def _from_folder(
    root: Path, clean: Images, where: Tensor, reading: Reading | None
) -> tuple[Delta, MatchedFiles]:
    matched = match_files(root, clean, where, reading)
    channels, height, width = clean.shape
    if channels not in (1, 3):
        raise InputError(
            f"{shown(root)}: decoded images have 1 or 3 channels, the clean ones {channels}: import an array"
        )
    decode = Decoder(grey=channels == 1, size=(height, width))

    def read(part: slice) -> Tensor:
        return decode((shown(file), read_bytes(file)) for file in matched.files[part])

    return Delta(_minus(clean, read)), matched


def _survey(delta: Delta, clean: Images, eps: Fraction | None) -> tuple[dict[str, Any] | None, list[str]]:
    """Statistics of the change, and warnings."""
    tally, textured = Tally(), torch.zeros(2, clean.num_classes, dtype=torch.bool)
    for before, after in _applied(delta, clean):
        tally.add(before, after)
        for flags, images in zip(textured, (before, after), strict=True):
            one_colour = (images.x.amax((2, 3)) == images.x.amin((2, 3))).all(1)
            flags[images.y[~one_colour].cpu()] = True
    doubts = [
        f"every image of class {k} becomes a single colour: did its generator divide by zero?"
        for k in (textured[0] & ~textured[1]).nonzero().squeeze(1).tolist()
    ]
    size = [(int(part.abs().max()), int(part.abs().sum())) for part in _parts(delta.delta)]
    largest, mean = max(most for most, _ in size), sum(total for _, total in size) / delta.delta.numel()
    if eps is not None and largest > eps * 255:
        doubts.append(
            f"its largest change is {largest} levels, more than the {float(eps * 255):g} of eps {eps}"
        )
    if mean > FAR:
        doubts.append(
            f"its mean change is {mean:.0f} levels: are its rows in the order of the clean images, and is it "
            "noise, not images? (store poisoned images as uint8, or as floats in 0..1)"
        )
    if not largest:
        doubts.append("it changes nothing")
    return tally.summary(), doubts


def _applied(delta: Delta, clean: Images) -> Iterator[tuple[Images, Images]]:
    at = 0
    for chunk in clean.chunks(per_chunk(clean)):
        yield chunk, delta.apply(chunk, torch.arange(at, at + len(chunk)))
        at += len(chunk)


def _parts(delta: Tensor) -> Iterator[Tensor]:
    """int16, some rows at a time."""
    size = max(1, 2**22 // math.prod(delta.shape[1:]))
    return (part.to(torch.int16) for part in delta.split(size))
