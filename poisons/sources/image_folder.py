"""Image folders: `root/train/<class>/*.png` and `root/test/<class>/*.png`, the layout of torchvision's
ImageFolder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from poisons.sources.base import Reading, Source, Split, digest
from poisons.sources.decode import Decoder
from trainers.images import Images
from trainers.spec import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}


class ImageFolder(Source, kind="image_folder"):
    """Files under `root`/train and `root`/test; a class is a folder with images, its label the folder's place
    in sorted order. `grey` gives one channel."""

    locators = ("root",)
    root: str
    grey: bool = False

    def measure(self) -> str:
        files = [file for split in ("train", "test") for file in self.files(split)]
        names = (str(file.relative_to(self.folder())) for file in files)
        return digest(map(str, files), *(["grey"] if self.grey else []), *names)

    def open(self, split: Split) -> Reading:
        classes = sorted({self.class_of(file, "train") for file in self.files("train")})
        files = self.files(split)
        for file in files:
            if self.class_of(file, split) not in classes:
                raise InputError(
                    f"{file}: class {self.class_of(file, split)!r} has no images in {self.root}/train"
                )
        labels = torch.tensor([classes.index(self.class_of(file, split)) for file in files])
        decode = Decoder(grey=self.grey)

        def take(rows: Tensor) -> Images:
            some = [files[row] for row in rows.tolist()]
            x = decode((str(file), read_bytes(file)) for file in some)
            return Images(x, labels[rows], len(classes))

        return Reading(labels, len(classes), take)

    def files(self, split: Split) -> list[Path]:
        """Every image of a split, in sorted order; hidden files and folders are passed over."""
        folder = self.folder() / split
        if not folder.is_dir():
            raise InputError(
                f"no folder {folder}; an image_folder has train/<class>/ and test/<class>/ under its root"
            )
        files = [file for file in images_under(folder) if file.parent != folder]
        if not files:
            raise InputError(f"no images under {folder}; expected <class>/*.png, .jpg, .bmp, .webp or .ppm")
        return files

    def class_of(self, file: Path, split: Split) -> str:
        return file.relative_to(self.folder() / split).parts[0]

    def folder(self) -> Path:
        return Path(self.root).expanduser()


def images_under(folder: Path) -> list[Path]:
    """Every image in a folder and in those inside it, in sorted order; hidden ones are passed over."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return [file for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts)]


def read_bytes(file: Path) -> bytes:
    """InputError if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
