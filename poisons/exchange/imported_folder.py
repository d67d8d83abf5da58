"""Folders of poisoned images made elsewhere: matches files to clean images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from poisons.sources.base import Reading
from poisons.sources.image_tree import Tree, images_under, shown
from trainers.images import Images
from trainers.spec import InputError, nearest

LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class MatchedFiles:
    """The file of each clean image in order, how they were matched, and warnings."""

    files: list[Path]
    matched_by: str
    warnings: list[str]


def match_files(root: Path, clean: Images, where: Tensor, reading: Reading | None) -> MatchedFiles:
    """Match the files under `root` (or `root`/train) to the clean images. `where` are the clean images' rows
    in the source, and `reading` has the names of files and classes there.

    Files have the names of the clean images in the source's tree (in any image format), or are named by row,
    in class folders or without. InputError for an image with no file or two, or a file in another class's
    folder.
    """
    class_names = () if reading is None else reading.class_names
    file_names = () if reading is None else reading.file_names
    if (root / "train").is_dir() and "train" not in class_names:
        root = root / "train"
    tree = images_under(root)
    if not tree.images:
        raise InputError(f"{root} holds no images; expected <class>/<row in the source>.png")
    by_name = _rows_by_name(root, tree.images, file_names)
    if _is_mirror(tree.images, by_name, where):
        known = [(file, row) for file, row in zip(tree.images, by_name, strict=True) if row is not None]
        found = [file for file, _ in known]
        rows = match_rows(root, torch.tensor([row for _, row in known]), where, "file", file_names)
        files, matched_by = [found[row] for row in rows.tolist()], "name"
    else:
        rows = match_rows(root, torch.tensor([_number(f, file_names) for f in tree.images]), where, "file")
        files, matched_by = [tree.images[row] for row in rows.tolist()], "row number"
        _check_classes(root, files, clean, class_names)
    return MatchedFiles(files, matched_by, _warnings(root, tree, files))


def match_rows(path: Path, index: Tensor, where: Tensor, what: str, names: Sequence[str] = ()) -> Tensor:
    """The position in `index` of each number in `where`. InputError if one is missing or occurs twice.
    `names` are the file names of the source's rows, if it has any."""

    def image(row: int) -> str:
        return f"image {row} of the source" + (f", {shown(Path(names[row]))}" if names else "")

    known, order = index.sort(stable=True)
    twice = (known[1:] == known[:-1]).nonzero()
    if len(twice):
        raise InputError(f"{path}: two {what}s are for {image(int(known[twice[0, 0]]))}")
    place = torch.searchsorted(known, where).clamp(max=len(known) - 1)
    missing = (known[place] != where).nonzero()
    if len(missing):
        raise InputError(
            f"{path}: {len(missing)} of {len(where)} images have no {what}, the first is "
            f"{image(int(where[missing[0, 0]]))}; it needs one for each of them"
        )
    return order[place]


def _rows_by_name(root: Path, files: list[Path], file_names: Sequence[str]) -> list[int | None]:
    """The source row of each file with the same path, ignoring suffixes unless two source files differ only
    in the suffix."""
    rows: dict[str, int] = {_stem(name): row for row, name in enumerate(file_names)}
    if len(rows) < len(file_names):
        rows = {}
    rows |= {name: row for row, name in enumerate(file_names)}
    names = [str(file.relative_to(root)) for file in files]
    return [rows.get(name, rows.get(_stem(name))) for name in names]


def _stem(name: str) -> str:
    return str(Path(name).with_suffix(""))


def _is_mirror(files: list[Path], rows: list[int | None], where: Tensor) -> bool:
    """Whether to match by name: all needed files are there by name, or some are and the others are not named
    by row."""
    there = set(rows) - {None}
    if there >= set(where.tolist()):
        return True
    return bool(there) and not all(_is_number(file.stem) for file in files)


def _is_number(name: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", name) is not None


def _number(file: Path, file_names: Sequence[str]) -> int:
    if not _is_number(file.stem):
        or_name = (
            f", or the name of its clean image, such as {shown(Path(file_names[0]))}" if file_names else ""
        )
        raise InputError(
            f"{shown(file)}: the name should be the image's row in the source, a whole number such as "
            f"00042.png{or_name}, so that it is known which clean image it was made from"
        )
    return int(file.stem)


def _check_classes(root: Path, files: list[Path], clean: Images, class_names: Sequence[str]) -> None:
    """InputError for a file in the folder of a class other than that of its clean image."""
    folders = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
    if not any(folders):
        return
    label = _labels_of_folders(root, sorted(set(folders)), clean.num_classes, class_names)
    for file, name, expected in zip(files, folders, clean.y.tolist(), strict=True):
        if label[name] != expected:
            raise InputError(
                f"{shown(file)} is in folder {name!r}, class {label[name]}, but the clean image of that "
                f"number has label {expected}: was it made from other images, or from these in another order?"
            )


def _labels_of_folders(
    root: Path, folders: list[str], num_classes: int, class_names: Sequence[str]
) -> dict[str, int]:
    """The label of each folder: the source's label for a class of that name; else numeric names are labels,
    as `opsctl export` writes them; and without class names, folders are numbered in order."""
    if set(folders) <= set(class_names):
        return {name: class_names.index(name) for name in folders}
    if all(name.isdecimal() and int(name) < num_classes for name in folders):
        return {name: int(name) for name in folders}
    if not class_names:
        return {name: label for label, name in enumerate(folders)}
    unknown = next(name for name in folders if name not in class_names)
    where = f"the folder {unknown!r}" if unknown else "an image in no class folder"
    raise InputError(
        f"{root} holds {where}, but no class of the source has that name{nearest(unknown, class_names)}"
    )


def _warnings(root: Path, tree: Tree, files: list[Path]) -> list[str]:
    found = []
    if len(tree.images) > len(files):
        left = len(tree.images) - len(files)
        found.append(f"{left} files belong to none of the {len(files)} clean images")
    for group in tree.skipped(root):
        found.append(
            f"{group['count']} files were not read ({group['reason']}): {', '.join(group['examples'])}"
        )
    lossy = [file for file in files if file.suffix.lower() in LOSSY]
    if lossy:
        found.append(f"{len(lossy)} files, such as {lossy[0].name}, are in a lossy format")
    return found
