"""Decodes images (PNG, JPEG, ...) into uint8 tensors; errors name the first bad image."""

from __future__ import annotations

import io
import os
import re
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
# every image with an orientation, in EXIF or XMP, contains one of these
ORIENTED = re.compile(rb"[Ee][Xx][Ii][Ff]|tiff:Orientation|adobe\.xmp")


FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that Pillow decodes by itself: for EPS, whatever the file's name, it would start
Ghostscript."""
CLEAN = "the clean image"
MOST_PIXELS = 2**26  # of one image: 200 MB once decoded


class Decoder:
    """Decodes the images of one source, all of one size after fitting: RGB, or luma if `grey`. Headers are
    checked before pixels are decoded."""

    def __init__(
        self,
        *,
        grey: bool = False,
        fit: Fit = AS_IT_IS,
        upright: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        """`upright` applies the EXIF orientation. `size` is the height and width that all images must have
        (default: those of the first image)."""
        self.mode = "L" if grey else "RGB"
        self.fit, self.upright = fit, upright
        self.size, self.first = size, CLEAN  # the required size, and the image that set it

    def __call__(self, encoded: Iterable[tuple[str, bytes]], *, through: str | None = None) -> Tensor:
        """uint8 N,C,H,W from (name, bytes) pairs, converted first to Pillow's mode `through`, if given.
        Raises InputError with the name of the first bad image."""
        named, modes = list(encoded), [*([through] if through else []), self.mode]
        if not named:
            raise InputError("the source has no images")
        found = []
        if self.size is None:
            name, raw = named.pop(0)
            found.append(self._pixels(name, raw, modes))
            self.size, self.first = found[0].shape[:2], name
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found += pool.map(lambda pair: self._pixels(pair[0], pair[1], modes), named)
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def _pixels(self, name: str, raw: bytes, modes: list[str]) -> np.ndarray[Any, Any]:
        """uint8 H,W,C."""
        try:
            with pillow().open(io.BytesIO(raw), formats=FORMATS) as opened:
                self._check_header(name, opened)
                image = _turned_upright(opened) if self.upright else opened
                for mode in modes:
                    image = image.convert(mode)
                pixels = np.asarray(self.fit(image, name))
        except (InputError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (a damaged file raises nearly anything)
            raise InputError(f"{name} is not an image that can be decoded ({error})") from None
        self._check_size(name, pixels.shape[0], pixels.shape[1])
        return pixels.reshape(*pixels.shape[:2], -1)

    def _check_header(self, name: str, image: Image) -> None:
        """InputError if the header shows that the image cannot be used."""
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise InputError(
                f"{name} is {height}x{width}, more than {MOST_PIXELS:,} pixels, the limit for decoding: "
                "make it smaller first"
            )
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{name} has more than 8 bits a channel; convert it to 8 bits first")
        may_turn = self.upright or image.format == "TIFF"  # Pillow rotates TIFF files itself
        if self.fit == AS_IT_IS and not (may_turn and self.size == (width, height)):
            self._check_size(name, height, width)

    def _check_size(self, name: str, height: int, width: int) -> None:
        if self.size in (None, (height, width)):
            return
        advice = (
            "; all images of a source must have one size: resize or crop them first "
            "(an image_folder does this with resize: 256, size: 224)"
        )
        raise InputError(
            f"{name} is {height}x{width} but {self.first} is {'x'.join(map(str, self.size or ()))}"
            + ("" if self.first == CLEAN else advice)
        )


def may_be_turned(raw: bytes | memoryview) -> bool:
    """Whether an encoded image, or several in one buffer, may have an EXIF orientation; fast, and without a
    copy."""
    return ORIENTED.search(raw) is not None


def is_turned(raw: bytes) -> bool:
    """Whether the EXIF orientation changes an encoded image. (Pillow applies that of TIFF files itself.)"""
    if not may_be_turned(raw):
        return False
    try:
        with pillow().open(io.BytesIO(raw), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:  # its EXIF data may come after the pixels
                return False
            return image.format != "TIFF" and image.getexif().get(ORIENTATION) in range(2, 9)
    except Exception:  # noqa: BLE001  (a damaged file raises nearly anything; the decoder reports it)
        return False


def _turned_upright(image: Image) -> Image:
    """The image rotated by its EXIF orientation, as `datasets` does."""
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
