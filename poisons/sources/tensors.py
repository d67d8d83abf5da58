"""Files of tensors, as `Images.save` writes them: for images from elsewhere, and for machines with torch
alone."""

from __future__ import annotations

from pathlib import Path

from poisons.sources.base import Reading, Source, Split, digest, find, in_memory
from trainers.images import Images
from trainers.spec import InputError


class Tensors(Source, kind="tensors"):
    """`train` and `test`: files of {"x": uint8 N,C,H,W, "y": int64 N, "num_classes": K}, read through a
    memory map."""

    locators = ("train", "test")
    train: str
    test: str

    def measure(self) -> str:
        return digest([self.file("train"), self.file("test")])

    def open(self, split: Split) -> Reading:
        return in_memory(Images.load(Path(self.file(split).removeprefix("file://"))))

    def file(self, split: Split) -> str:
        """The one file of a split, as a URL."""
        place: str = getattr(self, split)
        found = find(place)
        if len(found) > 1 or not found[0].startswith("file://"):
            raise InputError(f"{place}: a source of tensors is one local file for each split")
        return found[0]
