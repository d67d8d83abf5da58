"""Image folders: `root/train/<class>/*.png` and `root/test/<class>/*.png` (or `root/val/`), the layout of
torchvision's ImageFolder and of ImageNet."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from poisons.sources.base import Reading, Source, Split, digest
from poisons.sources.decode import Decoder
from poisons.sources.fit import Fit
from trainers.images import Images
from trainers.spec import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}


class ImageFolder(Source, kind="image_folder"):
    """Files under `root`/train and `root`/test, or `root`/val where there is no test; a class is a folder
    with images, its label the folder's place in sorted order. `grey` gives one channel.

    `classes` takes the first so many of them. `resize` makes the shorter side so long (bilinear, antialiased)
    and `size` then cuts the square in the middle, as torchvision's Resize and CenterCrop do; images are read
    as they are without either.
    """

    locators = ("root",)
    root: str
    grey: bool = False
    classes: PositiveInt | None = None
    resize: PositiveInt | None = None
    size: PositiveInt | None = None

    @model_validator(mode="after")
    def _the_square_fits(self) -> Self:
        if self.resize is not None and self.size is not None and self.size > self.resize:
            raise ValueError(
                f"size {self.size} cuts more than the {self.resize} pixels that `resize` leaves of the "
                f"shorter side; write resize: {self.size} or more"
            )
        return self

    def measure(self) -> str:
        files = [file for split in FOLDERS for file in self.files(split)]
        names = (str(file.relative_to(self.folder())) for file in files)
        return digest(map(str, files), *(["grey"] if self.grey else []), *self._fit.told, *names)

    def open(self, split: Split) -> Reading:
        place = {name: k for k, name in enumerate(self._classes())}
        folder, files = self._split(split), self.files(split)
        for file in files:
            if (name := _class(file, folder)) not in place:
                raise InputError(f"{file}: class {name!r} has no images in {self.root}/train")
        labels = torch.tensor([place[_class(file, folder)] for file in files])
        decode = Decoder(grey=self.grey, fit=self._fit)

        def take(rows: Tensor) -> Images:
            some = [files[row] for row in rows.tolist()]
            x = decode((str(file), read_bytes(file)) for file in some)
            return Images(x, labels[rows], len(place))

        return Reading(labels, len(place), take)

    def files(self, split: Split) -> list[Path]:
        """Every image of a split, of the classes that are taken, in sorted order; hidden files and folders
        are passed over."""
        folder = self._split(split)
        names = _folders(folder) if self.classes is None else self._classes()
        files = [file for name in names for file in images_under(folder / name)]
        if not files:
            flat = next(iter(_images(folder.glob("*"))), None)
            where = "" if flat is None else f"; {flat.name} and others lie in no class's folder"
            raise InputError(
                f"no images under {folder}; expected <class>/*.png, .jpg, .bmp, .webp or .ppm{where}"
            )
        return files

    def folder(self) -> Path:
        return Path(self.root).expanduser()

    @property
    def _fit(self) -> Fit:
        return Fit(self.resize, self.size)

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

    def _classes(self) -> list[str]:
        """The folders with images, in sorted order, or the first `classes` of them."""
        folder = self._split("train")
        filled = (name for name in _folders(folder) if images_under(folder / name))
        found = list(itertools.islice(filled, self.classes))
        if self.classes is not None and len(found) < self.classes:
            raise InputError(
                f"classes: {self.classes} of {folder}, which has only {len(found)} folders with images; "
                "leave `classes` out for all of them"
            )
        return found


def images_under(folder: Path) -> list[Path]:
    """Every image in a folder and in those inside it, in sorted order; hidden ones are passed over."""
    files = _images(folder.rglob("*"))
    return [file for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts)]


def read_bytes(file: Path) -> bytes:
    """InputError if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None


def _images(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES)


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are passed over."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _class(file: Path, folder: Path) -> str:
    return file.relative_to(folder).parts[0]
