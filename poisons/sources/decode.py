"""Encoded images (PNG, JPEG, ...) into uint8 tensors; the first that cannot be used is named."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from poisons.sources.fit import AS_IT_IS, Fit
from trainers.spec import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # the EXIF tag
# one of these is in every image that has it: as EXIF, or as XMP
ORIENTED = (b"Exif", b"eXIf", b"EXIF", b"exif", b"tiff:Orientation", b"adobe.xmp")


class Decoder:
    """Decodes the images of one source, all of one size once they have been fitted: RGB, or grey (their luma)
    if `grey`."""

    def __init__(self, *, grey: bool = False, fit: Fit = AS_IT_IS, upright: bool = False) -> None:
        """`upright` turns images as their EXIF orientation says."""
        self.mode = "L" if grey else "RGB"
        self.fit, self.upright = fit, upright
        self.first: tuple[str, str] | None = None  # name and size of the first image

    def __call__(self, encoded: Iterable[tuple[str, bytes]], *, through: str | None = None) -> Tensor:
        """uint8 N,C,H,W from (name, bytes) pairs, converted first to the mode `through` of Pillow, if given.
        Raises InputError with the name of the first bad one."""
        named, modes = list(encoded), [*([through] if through else []), self.mode]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = pool.map(lambda pair: self._pixels(pair[0], pair[1], modes), named)
            found = [self._checked(name, image) for (name, _), image in zip(named, images, strict=True)]
        if not found:
            raise InputError("the source has no images")
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def _pixels(self, name: str, raw: bytes, modes: list[str]) -> np.ndarray[Any, Any]:
        """uint8 H,W,C."""
        library = pillow()
        try:
            with library.open(io.BytesIO(raw)) as opened:
                image = _turned_upright(opened) if self.upright else opened
                if image.mode.startswith(("I", "F")):
                    raise InputError(f"{name} has more than 8 bits a channel; convert it to 8 bits first")
                for mode in modes:
                    image = image.convert(mode)
                pixels = np.asarray(self.fit(image, name))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
            raise InputError(f"{name} is not an image that can be decoded ({error})") from None
        return pixels.reshape(*pixels.shape[:2], -1)

    def _checked(self, name: str, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.first = self.first or (name, _size(image))
        if _size(image) != self.first[1]:
            raise InputError(
                f"{name} is {_size(image)} but {self.first[0]} is {self.first[1]}; "
                "all images of a source must have one size: resize or crop them first "
                "(an image_folder does, told resize: 256, size: 224)"
            )
        return image


def may_be_turned(raw: bytes) -> bool:
    """Whether one image, or several in one piece, could have an EXIF orientation; fast."""
    return any(mark in raw for mark in ORIENTED)


def is_turned(raw: bytes) -> bool:
    """Whether an encoded image is another one where its EXIF orientation is obeyed. (Pillow turns TIFF files
    itself.)"""
    if not may_be_turned(raw):
        return False
    try:
        with pillow().open(io.BytesIO(raw)) as image:
            return image.format != "TIFF" and image.getexif().get(ORIENTATION) in range(2, 9)
    except Exception:  # noqa: BLE001  (a damaged file raises nearly anything; who decodes it names it)
        return False


def _turned_upright(image: Image) -> Image:
    """The image as its EXIF orientation says, as `datasets` does it."""
    from PIL import ImageOps

    image.load()
    return image if image.getexif().get(ORIENTATION) is None else ImageOps.exif_transpose(image)


def pillow() -> ModuleType:
    """Pillow, imported here for machines that only open finished data sets."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("decoding images needs Pillow: pip install pillow") from None
    return Image


def _size(image: np.ndarray[Any, Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
