"""Folders of poisoned images that others made: which file belongs to which clean image."""

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
    """The file of each clean image in order, what they were matched by, and warnings."""

    files: list[Path]
    matched_by: str
    warnings: list[str]


def match_files(root: Path, clean: Images, where: Tensor, reading: Reading | None) -> MatchedFiles:
    """The files under `root` (or `root`/train) that were made from the clean images, of which `where` says
    the rows in the source, and `reading` the names that files and classes have there.

    Files have the names that the clean images have in the source's tree (in whatever format), or they are
    named by rows, in folders of their classes or in none. InputError for an image without a file, or with
    two, or for one in another class's folder.
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
    """The place in `index` of each number of `where`. InputError if one is missing, or is there twice;
    `names` are those of the source's rows, if they have any."""

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
    """The row of the source's file that has the same path, its suffix aside where no two differ by it
    alone."""
    rows: dict[str, int] = {_stem(name): row for row, name in enumerate(file_names)}
    if len(rows) < len(file_names):
        rows = {}
    rows |= {name: row for row, name in enumerate(file_names)}
    names = [str(file.relative_to(root)) for file in files]
    return [rows.get(name, rows.get(_stem(name))) for name in names]


def _stem(name: str) -> str:
    return str(Path(name).with_suffix(""))


def _is_mirror(files: list[Path], rows: list[int | None], where: Tensor) -> bool:
    """Whether files are matched by name: all that are needed are there, or some are and the others are not
    named by rows."""
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
    """InputError for a file in the folder of another class than its clean image has."""
    folders = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
    if not any(folders):
        return
    label = _labels_of_folders(root, sorted(set(folders)), clean.num_classes, class_names)
    for file, name, expected in zip(files, folders, clean.y.tolist(), strict=True):
        if label[name] != expected:
            raise InputError(
                f"{shown(file)} lies in folder {name!r}, class {label[name]}, but the clean image of that "
                f"number has label {expected}: was it made from other images, or from these in another order?"
            )


def _labels_of_folders(
    root: Path, folders: list[str], num_classes: int, class_names: Sequence[str]
) -> dict[str, int]:
    """The label that each folder stands for: as the source numbers classes of these names; else numbers are
    labels, as `opsctl export` writes them; and where classes have no names, folders are counted in order."""
    if set(folders) <= set(class_names):
        return {name: class_names.index(name) for name in folders}
    if all(name.isdecimal() and int(name) < num_classes for name in folders):
        return {name: int(name) for name in folders}
    if not class_names:
        return {name: label for label, name in enumerate(folders)}
    unknown = next(name for name in folders if name not in class_names)
    where = f"the folder {unknown!r}" if unknown else "an image in no class's folder"
    raise InputError(
        f"{root} holds {where}, but no class of the source has that name{nearest(unknown, class_names)}"
    )


def _warnings(root: Path, tree: Tree, files: list[Path]) -> list[str]:
    found = []
    if len(tree.images) > len(files):
        left = len(tree.images) - len(files)
        found.append(f"{left} files are of none of the {len(files)} clean images")
    for group in tree.skipped(root):
        found.append(
            f"{group['count']} files were not read ({group['reason']}): {', '.join(group['examples'])}"
        )
    lossy = [file for file in files if file.suffix.lower() in LOSSY]
    if lossy:
        found.append(f"{len(lossy)} files, such as {lossy[0].name}, are in a form that may lose detail")
    return found
