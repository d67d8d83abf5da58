"""Image folders: `root/train/<class>/*.png` and `root/test/<class>/*.png`, the layout of torchvision's
ImageFolder."""

from __future__ import annotations

from pathlib import Path

import torch

from poisons.sources.base import Source, Split, digest
from poisons.sources.decode import decode
from trainers.images import Images
from trainers.spec import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}


class ImageFolder(Source, kind="image_folder"):
    """Files under `root`/train and `root`/test; a class is a folder with images, its label the folder's place
    in sorted order."""

    locators = ("root",)
    root: str

    def measure(self) -> str:
        files = [file for split in ("train", "test") for file in self.files(split)]
        return digest(map(str, files), *(str(file.relative_to(self.folder())) for file in files))

    def load(self, split: Split) -> Images:
        classes = sorted({self.class_of(file, "train") for file in self.files("train")})
        files = self.files(split)
        for file in files:
            if self.class_of(file, split) not in classes:
                raise InputError(
                    f"{file}: class {self.class_of(file, split)!r} has no images in {self.root}/train"
                )
        x = decode((str(file), file.read_bytes()) for file in files)
        labels = [classes.index(self.class_of(file, split)) for file in files]
        return Images(x, torch.tensor(labels), len(classes))

    def files(self, split: Split) -> list[Path]:
        """Every image of a split, in sorted order; hidden files and folders are passed over."""
        folder = self.folder() / split
        if not folder.is_dir():
            raise InputError(
                f"no folder {folder}; an image_folder has train/<class>/ and test/<class>/ under its root"
            )
        files = sorted(file for file in folder.glob("*/**/*") if file.suffix.lower() in SUFFIXES)
        files = [file for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts)]
        if not files:
            raise InputError(f"no images under {folder}; expected <class>/*.png, .jpg, .bmp, .webp or .ppm")
        return files

    def class_of(self, file: Path, split: Split) -> str:
        return file.relative_to(self.folder() / split).parts[0]

    def folder(self) -> Path:
        return Path(self.root).expanduser()
