"""How reports show what a probe found: a description, units, curves and a picture.

A view is plain JSON, kept with a planned sweep, so that a report needs neither the probe's code nor torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import StringConstraints
from typing_extensions import TypedDict

PERCENT = "%"
Name = Annotated[str, StringConstraints(max_length=1000)]
Unit = Annotated[str, StringConstraints(max_length=100)]
"""PERCENT for a share in [0, 1], which is shown in percent; any other text, such as `nats`, is shown after
the number; empty for a number without a unit."""


class Mark(TypedDict):
    """A dot on a curve, for each trial that has the metric `epoch`, its place. Its height is the metric
    `value`, by default that of the curve. `says` is its tooltip, in which `{epoch}` and `{value}` are
    replaced."""

    curve: Name
    epoch: Name
    value: NotRequired[Name]
    filled: bool
    says: Name


class HeatMap(TypedDict):
    """Contours of a grid of numbers, on one scale for all trials. The field `values` has a row for each
    number of the field `y`, and in it a number for each of the field `x`. `shows` says what they are; the
    `metrics` are shown below."""

    kind: Literal["heat_map"]
    shows: Name
    x: Name
    y: Name
    values: Name
    scale: Literal["linear", "log"]
    cross: NotRequired[bool]  # at (0, 0)
    metrics: NotRequired[list[Name]]


class ImageMaps(TypedDict):
    """Images, each with a map of numbers from zero. The field `images` is a list of objects: `label`,
    `pixels` (uint8 H,W,C) and `response` (H',W': the map, whose largest number is shown white). `shows` says
    what the maps are. The field `filters` holds signed numbers K,h,w,C."""

    kind: Literal["image_maps"]
    shows: Name
    images: Name
    filters: NotRequired[Name]


Picture = HeatMap | ImageMaps


class ProbeView(TypedDict, total=False):
    """How reports show the findings of a probe. `says` describes it in a sentence or two; `units` are those
    of metrics and curves, by name. `curves` names those that are drawn (default: all); `first_epoch` is the
    epoch of their first number (default: 1; 0 is before the training), and `along` what their numbers are
    counted in (default: epoch)."""

    says: Annotated[str, StringConstraints(max_length=2000)]
    units: dict[Name, Unit]
    curves: list[Name]
    first_epoch: Literal[0, 1]
    along: Name
    marks: list[Mark]
    picture: Picture
