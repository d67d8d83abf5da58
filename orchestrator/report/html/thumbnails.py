"""What the picture of a finding is drawn from, as a document keeps it: numbers rounded, images as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.report.html.records import Grid, MappedImage, MappedImages
from trainers import InputError
from trainers.probe_view import HeatMap, ImageMaps, Picture

IMAGES = 4  # at most, of a finding
FILTERS = 32  # at most, of a finding
DIGITS = 6  # significant ones, of a number of a heat map

Array = np.ndarray[Any, Any]


def picture_of(probe: str, view: Picture, fields: Mapping[str, Any]) -> Grid | MappedImages:
    """What the picture of the probe of this name is drawn from. Raises InputError if these fields cannot be
    drawn as its view says: they were read from a file, and only the probe knows their structure."""
    try:
        return _grid(view, fields) if view["kind"] == "heat_map" else _mapped_images(view, fields)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"the fields of probe {probe} cannot be drawn ({type(error).__name__}: {error})"
        ) from None


def data_uri(pixels: Array) -> str:
    """uint8 H,W or H,W,C as a PNG data URL. Shows the first three channels, or only the first if there are
    fewer than three."""
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


def _grid(view: HeatMap, fields: Mapping[str, Any]) -> Grid:
    x, y, values = (np.asarray(fields[view[name]], float) for name in ("x", "y", "values"))
    return Grid(kind="heat_map", x=_rounded(x), y=_rounded(y), values=[_rounded(row) for row in values])


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _mapped_images(view: ImageMaps, fields: Mapping[str, Any]) -> MappedImages:
    images = [
        MappedImage(
            label=str(image["label"]),
            picture=data_uri(np.asarray(image["pixels"], np.uint8)),
            response=data_uri(_stretched(np.asarray(image["response"], float))),
            at=_largest(np.asarray(image["response"], float)),
        )
        for image in fields[view["images"]][:IMAGES]
    ]
    filters = fields[view["filters"]][:FILTERS] if "filters" in view else ()
    return MappedImages(kind="image_maps", images=images, filters=[data_uri(_centred(f)) for f in filters])


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
