"""Encoded images (PNG, JPEG, ...) into uint8 tensors; the first that cannot be used is named."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poisons.sources.fit import AS_IT_IS, Fit
from trainers.spec import InputError


class Decoder:
    """Decodes the images of one source, all of one size once they have been fitted: RGB, or grey (their luma)
    if `grey`."""

    def __init__(self, *, grey: bool = False, fit: Fit = AS_IT_IS) -> None:
        self.mode = "L" if grey else "RGB"
        self.fit = fit
        self.first: tuple[str, str] | None = None  # name and size of the first image

    def __call__(self, encoded: Iterable[tuple[str, bytes]]) -> Tensor:
        """uint8 N,C,H,W from (name, bytes) pairs. Raises InputError with the name of the first bad one."""
        named = list(encoded)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = pool.map(lambda pair: _pixels(pair[0], pair[1], self.mode, self.fit), named)
            found = [self._checked(name, image) for (name, _), image in zip(named, images, strict=True)]
        if not found:
            raise InputError("the source has no images")
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()

    def _checked(self, name: str, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.first = self.first or (name, _size(image))
        if _size(image) != self.first[1]:
            raise InputError(
                f"{name} is {_size(image)} but {self.first[0]} is {self.first[1]}; "
                "all images of a source must have one size: resize or crop them first "
                "(an image_folder does, told resize: 256, size: 224)"
            )
        return image


def _pixels(name: str, raw: bytes, mode: str, fit: Fit) -> np.ndarray[Any, Any]:
    """uint8 H,W,C."""
    try:
        from PIL import Image  # here, for machines that only open finished data sets
    except ImportError:
        raise InputError("decoding images needs Pillow: pip install pillow") from None
    try:
        with Image.open(io.BytesIO(raw)) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{name} has more than 8 bits a channel; convert it to 8 bits first")
            pixels = np.asarray(fit(image.convert(mode), name))
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is not an image that can be decoded ({error})") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def _size(image: np.ndarray[Any, Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
