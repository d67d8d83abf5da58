"""Image folders: `root/train/<class>/*.png` and `root/test/<class>/*.png` (or `root/val/`), the layout of
torchvision's ImageFolder and of ImageNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from poisons.sources.base import Reading, Skipped, Source, Split, Survey, digest
from poisons.sources.decode import Decoder
from poisons.sources.fit import Fit
from poisons.sources.image_tree import (
    SUFFIXES,
    Tree,
    entries,
    images_under,
    is_image,
    read_bytes,
    shown,
    skipped,
)
from trainers.images import Images
from trainers.spec import InputError

FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}


@dataclass(frozen=True)
class _Files:
    """The files of a split in order, the class name of each, the classes in order, and the files that are not
    read."""

    images: list[Path]
    labels: list[str]
    classes: list[str]
    skipped: tuple[Skipped, ...]


class ImageFolder(Source, kind="image_folder"):
    """Files read as torchvision's ImageFolder reads them: a class is a folder, its label the folder's place
    among those of train, sorted as text (0, 1, 10, 2). Links are followed. Hidden files and folders, and
    files that are not images, are skipped; plans and cards list them.

    `resize` and `size` are torchvision's Resize and CenterCrop; without both, images are read unchanged.
    """

    locators = ("root",)
    root: str
    """Folder with train/ and test/, or val/ where there is no test/; in each a folder per class."""
    grey: bool = False
    """Whether images are read with one channel, not three."""
    classes: PositiveInt | None = None
    """Number of classes, the first in sorted order; null takes all."""
    resize: PositiveInt | None = None
    """New length of the shorter side in pixels (bilinear, antialiased); null does not resize."""
    size: PositiveInt | None = None
    """Side in pixels of the central square that is then cropped, at most `resize`; null does not crop."""

    @model_validator(mode="after")
    def _the_square_fits(self) -> Self:
        if self.resize is not None and self.size is not None and self.size > self.resize:
            raise ValueError(
                f"size {self.size} cuts more than the {self.resize} pixels that `resize` leaves of the "
                f"shorter side; write resize: {self.size} or more"
            )
        return self

    def measure(self) -> str:
        train = self._files("train")
        test = self._files("test", train.classes)
        files = train.images + test.images
        names = (str(file.relative_to(self.folder())) for file in files)
        return digest(files, *(["grey"] if self.grey else []), *self._fit.in_words, *names)

    def open(self, split: Split) -> Reading:
        classes, found = self._classes_and_files(split)
        place = {name: k for k, name in enumerate(classes)}
        labels = torch.tensor([place[name] for name in found.labels])
        decode = Decoder(grey=self.grey, fit=self._fit)

        def take(rows: Tensor) -> Images:
            some = [found.images[row] for row in rows.tolist()]
            x = decode((shown(file), read_bytes(file)) for file in some)
            return Images(x, labels[rows], len(place))

        folder = self._split(split)
        names = tuple(str(file.relative_to(folder)) for file in found.images)
        return Reading(labels, len(place), take, tuple(map(_text, classes)), names)

    def survey(self, split: Split) -> Survey:
        classes, found = self._classes_and_files(split)
        folder = self._split(split).name
        absent = [_text(name) for name in classes if name not in found.classes]
        notes = [f"{folder}/ has no images of {len(absent)} classes: {_some(absent)}"] if absent else []
        unread = [name for name in FOLDERS[split] if (self.folder() / name).is_dir() and name != folder]
        notes += [f"{name}/ is not read, since there is {folder}/" for name in unread]
        return Survey(found.skipped, tuple(notes))

    def folder(self) -> Path:
        return Path(self.root).expanduser()

    @property
    def _fit(self) -> Fit:
        return Fit(self.resize, self.size)

    def _classes_and_files(self, split: Split) -> tuple[list[str], _Files]:
        train = self._files("train")
        return train.classes, train if split == "train" else self._files(split, train.classes)

    def _files(self, split: Split, classes: list[str] | None = None) -> _Files:
        """The files of a split; for `test`, of `classes`, those of train. InputError for a class without
        images, and for one that train does not have."""
        folder, beside = self._split(split), Tree()
        names = self._class_folders(folder, beside)
        if classes is None:
            names = names[: self.classes]
        elif self.classes is not None:
            names = [name for name in names if name in classes]
        found = {name: images_under(folder / name) for name in names}
        self._check_split(folder, found, beside)
        for name, tree in found.items():
            self._check_class(folder / name, tree, names if classes is None else classes)
        images = [file for tree in found.values() for file in tree.images]
        labels = [name for name, tree in found.items() for _ in tree.images]
        other = [file for tree in found.values() for file in tree.other]
        hidden = [file for tree in found.values() for file in tree.hidden]
        left = Tree(other=beside.other + other, hidden=beside.hidden + hidden)
        flat = skipped("in no class folder", beside.images, self.folder())
        return _Files(images, labels, names, left.skipped(self.folder()) + ((flat,) if beside.images else ()))

    def _class_folders(self, folder: Path, beside: Tree) -> list[str]:
        """Names of the class folders, sorted as text; everything else is added to `beside`."""
        names = []
        for entry in entries(folder):
            path = folder / entry.name
            if entry.name.startswith("."):
                beside.hidden.append(path)
            elif entry.is_dir():
                names.append(entry.name)
            else:
                (beside.images if is_image(entry.name) else beside.other).append(path)
        return names

    def _check_class(self, folder: Path, found: Tree, known: list[str]) -> None:
        if not found.images:
            others = [_text(file.name) for file in (*found.other, *found.hidden)]
            there = f", but {len(others)} other files, such as {others[0]}" if others else ""
            raise InputError(
                f"{shown(folder)} is a class folder, but has no {', '.join(SUFFIXES)}{there}: "
                "put its images there, or remove the folder"
            )
        if folder.name not in known:
            raise InputError(
                f"{shown(found.images[0])}: class {folder.name!r} has no images in {self.root}/train"
            )

    def _check_split(self, folder: Path, found: dict[str, Tree], beside: Tree) -> None:
        if not any(tree.images for tree in found.values()):
            some = beside.images[:1]
            flat = "".join(f"; {_text(file.name)} and others are in no class folder" for file in some)
            raise InputError(
                f"no images under {shown(folder)}; expected <class>/*.png, .jpg, .tif, .bmp, .webp or .ppm"
                f"{flat}"
            )
        if self.classes is not None and folder.name == "train" and len(found) < self.classes:
            raise InputError(
                f"classes: {self.classes} of {shown(folder)}, which has only {len(found)} folders with "
                "images; leave `classes` out for all of them"
            )

    def _split(self, split: Split) -> Path:
        """The folder of a split."""
        known = [self.folder() / name for name in FOLDERS[split]]
        for folder in known:
            if folder.is_dir():
                return folder
        raise InputError(
            f"no folder {known[0]}; an image_folder has train/<class>/ and test/<class>/ (or val/<class>/) "
            "under its root"
        )


def _text(name: str) -> str:
    return shown(Path(name))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
