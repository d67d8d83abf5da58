"""scikit-learn's handwritten digits (Alpaydin, Kaynak; UCI 1998): 1,797 images that come with the library.
No download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from poisons.sources.base import Reading, Source, Split, digest, in_memory
from trainers.images import Images
from trainers.spec import InputError


class Digits(Source, kind="digits"):
    """8x8 grey images, enlarged bilinearly, with three equal channels; 1,442 training and 355 test images,
    the same share of each class."""

    size: Annotated[int, Field(ge=1, le=512)] = 32
    """Height and width in pixels, to which the 8x8 images are enlarged."""

    def measure(self) -> str:
        return digest([str(_file())], *([] if self.size == 32 else [f"size {self.size}"]))

    def open(self, split: Split) -> Reading:
        with gzip.open(_file(), "rt") as stream:
            table = torch.from_numpy(np.loadtxt(stream, delimiter=","))
        grey = table[:, :-1].reshape(-1, 1, 8, 8) / 16
        x = F.interpolate(grey, size=(self.size, self.size), mode="bilinear", align_corners=False)
        x = (x * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
        images = Images(x, table[:, -1].long(), 10)
        return in_memory(images.take(_split(images)[split]))


def _split(images: Images) -> dict[Split, torch.Tensor]:
    """Every fifth image of each class is a test image."""
    turn = torch.empty_like(images.y)
    for k in range(images.num_classes):
        mine = images.y == k
        turn[mine] = torch.arange(int(mine.sum()))
    return {"train": (turn % 5 != 4).nonzero().squeeze(1), "test": (turn % 5 == 4).nonzero().squeeze(1)}


def _file() -> Path:
    found = find_spec("sklearn")  # located, not imported, which would take two seconds
    if found is None or not found.submodule_search_locations:
        raise InputError("source 'digits' reads a file of scikit-learn: pip install scikit-learn")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
