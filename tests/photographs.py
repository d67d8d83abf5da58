"""A small folder like ImageNet's: JPEG files of the usual size, in classes under train/ and val/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 375), (500, 333), (375, 500), (640, 480))  # width and height, in turn


def photographs(root: Path, *, classes: int = 3, train: int = 20, val: int = 4, links: int = 0) -> Path:
    """Soft random pictures: `train` and `val` of each class, whose mean colour they have; the first training
    image of each class has `links` more names."""
    for k in range(classes):
        colour = np.random.default_rng(k).integers(60, 196, 3)
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"n{k:08}"
            folder.mkdir(parents=True)
            for i in range(count):
                picture(colour, SIZES[i % len(SIZES)], seed=1000 * k + 100 * (split == "val") + i).save(
                    folder / f"{i}.JPEG", quality=90
                )
            for i in range(links if split == "train" else 0):
                os.link(folder / "0.JPEG", folder / f"again-{i}.JPEG")
    return root


def picture(colour: np.ndarray, size: tuple[int, int], *, seed: int) -> Image.Image:
    """Random levels around a colour, in patches of some 50 pixels."""
    rough = np.random.default_rng(seed).integers(-60, 61, (8, 10, 3)) + colour
    return Image.fromarray(rough.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
