"""The fields of a finding as a document keeps them: numbers rounded, images as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from trainers import InputError

IMAGES = 4  # at most, of a finding
FILTERS = 32  # at most, of a first layer

Fields = dict[str, Any]
Array = np.ndarray[Any, Any]


def kept_fields(kind: str, fields: Mapping[str, Any]) -> Fields:
    """The fields that the page draws for a probe of this kind; none for an unknown kind. Raises InputError if
    they cannot be drawn: they were read from a file, and only the probe knows their structure."""
    keep = KEEPERS.get(kind)
    try:
        return keep(fields) if keep and fields else {}
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"the fields of probe {kind} cannot be drawn ({type(error).__name__}: {error})"
        ) from None


def data_uri(pixels: Array) -> str:
    """uint8 H,W or H,W,C as a PNG data URL. Shows the first three channels, or only the first if there are
    fewer than three."""
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def _surface(fields: Mapping[str, Any]) -> Fields:
    grids = {name: np.asarray(fields[name], float).round(4).tolist() for name in ("x", "y", "loss", "acc")}
    return grids | {"how": fields.get("how", {})}


def _responses(fields: Mapping[str, Any]) -> Fields:
    images = [
        {
            "label": str(image["label"]),
            "picture": data_uri(np.asarray(image["pixels"], np.uint8)),
            "response": data_uri(_stretched(np.asarray(image["response"], float))),
            "at": _largest(np.asarray(image["response"], float)),
        }
        for image in fields["images"][:IMAGES]
    ]
    return {"images": images, "filters": [data_uri(_centred(f)) for f in fields["filters"][:FILTERS]]}


def _stretched(values: Array) -> Array:
    """Numbers as grey levels: 0 is black, the largest is white."""
    top = values.max()
    return (values * (255 / top if top > 0 else 0)).round().clip(0, 255).astype(np.uint8)


def _centred(values: Any) -> Array:
    """A signed filter h,w,C around mid-grey, scaled so that its largest magnitude fills the range."""
    weights = np.asarray(values, float)
    top = np.abs(weights).max()
    return (128 + weights * (127 / top if top > 0 else 0)).round().clip(0, 255).astype(np.uint8)


def _largest(values: Array) -> list[int]:
    row, column = np.unravel_index(values.argmax(), values.shape)
    return [int(row), int(column)]


KEEPERS: dict[str, Callable[[Mapping[str, Any]], Fields]] = {
    "loss_surface": _surface,
    "first_layer": _responses,
}
