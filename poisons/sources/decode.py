"""Encoded images (PNG, JPEG, ...) into one uint8 tensor; the first that cannot be used is named."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.spec import InputError


def decode(encoded: Iterable[tuple[str, bytes]]) -> Tensor:
    """RGB uint8 N,3,H,W from (name, bytes) pairs, all of one size. Raises InputError with the name of the
    first bad one."""
    images: list[np.ndarray[Any, Any]] = []
    first = ""
    for name, raw in encoded:
        image = _rgb(name, raw)
        first = first or name
        if images and image.shape != images[0].shape:
            raise InputError(
                f"{name} is {_size(image)} but {first} is {_size(images[0])}; "
                "all images of a source must have one size: resize or crop them first"
            )
        images.append(image)
    if not images:
        raise InputError("the source has no images")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def _rgb(name: str, raw: bytes) -> np.ndarray[Any, Any]:
    try:
        from PIL import Image  # here, for machines that only open finished data sets
    except ImportError:
        raise InputError("decoding images needs Pillow: pip install pillow") from None
    try:
        with Image.open(io.BytesIO(raw)) as image:
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{name} has more than 8 bits a channel; convert it to 8 bits first")
            return np.asarray(image.convert("RGB"))
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is not an image that can be decoded ({error})") from None


def _size(image: np.ndarray[Any, Any]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
