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
    """Files under `root`/train and `root`/test; a class is a folder, its label the folder's place in sorted
    order."""

    locators = ("root",)
    root: str

    def measure(self) -> str:
        root = Path(self.root).expanduser()
        files = [file for split in ("train", "test") for file in self.files(split)]
        return digest(map(str, files), *(str(file.relative_to(root)) for file in files))

    def load(self, split: Split) -> Images:
        files, classes = self.files(split), self.classes("train")
        unknown = [file for file in files if file.parent.name not in classes]
        if unknown:
            raise InputError(
                f"{unknown[0]}: class {unknown[0].parent.name!r} has no folder in {self.root}/train"
            )
        x = decode((str(file), file.read_bytes()) for file in files)
        return Images(x, torch.tensor([classes.index(file.parent.name) for file in files]), len(classes))

    def classes(self, split: str) -> list[str]:
        folder = Path(self.root).expanduser() / split
        if not folder.is_dir():
            raise InputError(
                f"no folder {folder}; an image_folder has train/<class>/ and test/<class>/ under its root"
            )
        return sorted(d.name for d in folder.iterdir() if d.is_dir())

    def files(self, split: str) -> list[Path]:
        folder = Path(self.root).expanduser() / split
        inside = [file for name in self.classes(split) for file in sorted((folder / name).iterdir())]
        files = [file for file in inside if file.suffix.lower() in SUFFIXES]
        if not files:
            raise InputError(f"no images under {folder}; expected <class>/*.png, .jpg, .bmp, .webp or .ppm")
        return files
