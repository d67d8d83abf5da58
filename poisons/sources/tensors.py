"""Files of tensors, as written by `Images.save`: for other images, and for machines with only torch."""

from __future__ import annotations

from pathlib import Path

from poisons.sources.base import Reading, Source, Split, Survey, digest, find, in_memory
from trainers.images import Images, stored_layout
from trainers.spec import InputError

SPLITS: tuple[Split, ...] = ("train", "test")


class Tensors(Source, kind="tensors"):
    """Files of {"x": uint8 N,C,H,W, "y": int64 N, "num_classes": K}, read through a memory map. `x` may also
    be N,H,W,C, or N,H,W where there is one channel."""

    locators = ("train", "test")
    train: str
    """File of the training images."""
    test: str
    """File of the test images."""

    def measure(self) -> str:
        train, test = self._load("train"), self._load("test")
        if train.num_classes > len(train):
            raise InputError(
                f"{self.path('train')}: num_classes is {train.num_classes}, more than its {len(train)} images"
            )
        if train.shape != test.shape or train.num_classes < test.num_classes:
            raise InputError(
                f"{self.path('train')} holds {_extent(train)}, but {self.path('test')} holds {_extent(test)}"
            )
        how = [f"{split} N,H,W,C" for split in SPLITS if stored_layout(self.path(split)) == "N,H,W,C"]
        return digest([self.file("train"), self.file("test")], *how)

    def open(self, split: Split) -> Reading:
        return in_memory(self._load(split))

    def survey(self, split: Split) -> Survey:
        found, (channels, height, width) = stored_layout(self.path(split)), self._load(split).shape
        if found == "N,C,H,W":
            return Survey()
        name = self.path(split).name
        return Survey(notes=(f"{name} is {found}, read as images of {channels}x{height}x{width}",))

    def _load(self, split: Split) -> Images:
        return Images.load(self.path(split))

    def path(self, split: Split) -> Path:
        """The file of a split."""
        return Path(self.file(split).removeprefix("file://"))

    def file(self, split: Split) -> str:
        """The single file of a split, as a URL."""
        place: str = getattr(self, split)
        found = find(place)
        if len(found) > 1 or not found[0].startswith("file://"):
            raise InputError(f"{place}: a source of tensors is one local file for each split")
        return found[0]


def _extent(images: Images) -> str:
    channels, height, width = images.shape
    return f"images of {channels}x{height}x{width} in {images.num_classes} classes"
