"""PIL's image operations, as torchvision defines them, on a batch in three passes over the pixels: each image
has its own operation and strength.

Levels are whole numbers 0..255 held in float32 N,C,H,W. `ops` is the static tuple of names that `op`, int64
N, indexes; what no name in it needs is not computed. `strength`, float64 N, is in the unit of the image's own
operation:

| pass | operation | strength |
|---|---|---|
| none | identity | any |
| geometry: one gather | shear_x, shear_y (from the top left corner) | pixels per pixel |
| | translate_x, translate_y (right, down) | pixels, whole |
| | rotate (about the centre, anticlockwise) | degrees |
| tone: one look-up table per image and channel | brightness, contrast | factor >= 0 |
| | posterize | bits that stay, 0..8 |
| | solarize | the level from which on levels are inverted |
| | auto_contrast, equalize, invert | any |
| blend with another image | color (away from grey), sharpness (away from smooth) | factor >= 0 |

Nothing here synchronises the host with an accelerator. On a CPU the levels are bit for bit those that
torchvision.transforms.v2.functional computes from uint8, except for ties that float rounding decides: a
source point half-way between two pixels, or a factor whose product is a whole number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.spec import InputError

GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
TONE = ("brightness", "contrast", "posterize", "solarize", "auto_contrast", "equalize", "invert")
BLEND = ("color", "sharpness")
NAMES = ("identity", *GEOMETRY, *TONE, *BLEND)


def to_levels(x: Tensor) -> Tensor:
    """Pixels to the nearest levels 0..255, as float32; those outside [0, 1] become black or white."""
    return (x * 255).round_().clamp_(0, 255)


def to_pixels(levels: Tensor) -> Tensor:
    """Levels to pixels in [0, 1]; `to_levels` recovers the levels exactly."""
    return levels / 255


def apply(
    levels: Tensor, op: Tensor, strength: Tensor, *, ops: tuple[str, ...], fill: tuple[float, ...] = (0.0,)
) -> Tensor:
    """New levels: image i after operation `ops[op[i]]`; `fill`, one level or one per channel, is used outside
    the image. ValueError for a name that is not in NAMES."""
    if unknown := [name for name in ops if name not in NAMES]:
        raise ValueError(f"unknown operation {unknown[0]!r}; known: {', '.join(NAMES)}")
    c, h, w = levels.shape[1:]
    idle = {"identity"} | ({"color"} if c == 1 else set()) | ({"sharpness"} if min(h, w) < 3 else set())
    free, out = counting_is_free(levels.device), levels.clone()
    for names, run in ((GEOMETRY, partial(geometry, fill=fill)), (TONE, tone), (BLEND, blend)):
        used = {name: op == ops.index(name) for name in names if name in ops and name not in idle}
        if used and free:  # an image has one operation, so one pass is enough for it
            rows = torch.stack([*used.values()]).any(0).nonzero()[:, 0]
            mine = {name: mask[rows] for name, mask in used.items()}
            out.index_copy_(0, rows, run(levels[rows], mine, strength[rows]))
        elif used:
            out = run(out, used, strength)
    return out


def counting_is_free(device: torch.device) -> bool:
    """Whether the host can count images without waiting for the device."""
    return device.type == "cpu"


def geometry(levels: Tensor, used: dict[str, Tensor], strength: Tensor, *, fill: tuple[float, ...]) -> Tensor:
    """Each image transformed by its own affine map."""
    h, w = levels.shape[2:]
    return warp(levels, matrices(used, strength, height=h, width=w), fill=fill)


def matrices(used: dict[str, Tensor], strength: Tensor, *, height: int, width: int) -> Tensor:
    """N,2,3 rows (a, b, c): output pixel (x, y) shows the input at a·x + b·y + c, both in pixels from the
    centre."""
    none = torch.zeros_like(strength)
    part = {name: torch.where(used[name], strength, none) if name in used else none for name in GEOMETRY}
    cos, sin = rotation(part["rotate"])
    across, down = part["shear_x"], part["shear_y"]
    return matrix(
        (cos, across - sin, across * (height / 2) - part["translate_x"]),
        (sin + down, cos, down * (width / 2) - part["translate_y"]),
    )


def matrix(x: tuple[Tensor, Tensor, Tensor], y: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """N,2,3 from its six entries N, row by row."""
    return torch.stack((*x, *y), 1).view(-1, 2, 3)


def rotation(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine."""
    return degrees.deg2rad().cos(), degrees.deg2rad().sin()


def warp(
    x: Tensor,
    where: Tensor,
    *,
    mode: Literal["nearest", "bilinear"] = "nearest",
    fill: tuple[float, ...] = (0.0,),
) -> Tensor:
    """Each image of `x` float N,C,H,W resampled with its matrix in `where` N,2,3 (see `matrices`), with
    `fill` outside."""
    h, w = x.shape[2:]
    # grid_sample measures in half widths and half heights
    scaled = torch.stack((where[:, 0] / (w / 2), where[:, 1] / (h / 2)), 2).float()  # N,3,2
    across = torch.arange(w, device=x.device) - (w - 1) / 2
    down = torch.arange(h, device=x.device) - (h - 1) / 2
    columns = scaled[:, None, 0] * across[:, None]  # N,W,2
    rows = scaled[:, None, 1] * down[:, None] + scaled[:, None, 2]  # N,H,2
    # a point as one complex number: three times as fast to add up as two real ones
    points = torch.view_as_complex(rows)[:, :, None] + torch.view_as_complex(columns)[:, None]
    grid = torch.view_as_real(points)
    if not any(fill):
        return F.grid_sample(x, grid, mode=mode, align_corners=False)
    ground = constant(fill, x.device, x.dtype).view(-1, 1, 1)
    # grid_sample puts zeros outside
    return F.grid_sample(x - ground, grid, mode=mode, align_corners=False).add_(ground)


@cache
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values as a tensor that must not be written to. Copied to the device once, since a copy makes the
    host wait."""
    return torch.tensor(values, dtype=dtype, device=device)


def tone(levels: Tensor, used: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Each image mapped by its own look-up tables."""
    index = levels.flatten(2).long()
    every = torch.arange(256.0, device=levels.device)
    table = every.expand(len(levels), 1, 256)
    for name, curve in CURVES.items():
        if name in used:
            new = curve(every, strength[:, None, None], levels, index)
            table = torch.where(used[name][:, None, None], new, table)
    return table.expand(-1, levels.shape[1], -1).gather(2, index).view_as(levels)


Curve = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The levels 0..255, strength N,1,1, the images, and the images as int64 N,C,H·W, to a table N,1|C,256."""


def _brightness(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    return _to_whole(every * strength.float())


def _contrast(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    mean = grey(levels).floor_().mean((1, 2, 3))[:, None, None]
    return _to_whole(torch.addcmul(every * strength.float(), mean, (1 - strength).float()))


def _posterize(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    step = (1 << (8 - strength.clamp(0, 8).long())).float()
    return (every / step).floor_().mul_(step)


def _solarize(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    return torch.where(every >= strength.float(), 255 - every, every)


def _auto_contrast(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    low, high = levels.amin((2, 3))[..., None], levels.amax((2, 3))[..., None]
    stretched = _to_whole((every - low) / ((high - low) * (1 / 255)))
    return torch.where(high > low, stretched, every)


def _equalize(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    n, c, pixels = index.shape
    count = torch.zeros(n, c, 256, dtype=torch.int32, device=index.device)
    count.scatter_add_(2, index, count.new_ones(()).expand_as(index))
    below = (count.cumsum(2, dtype=torch.int32) - count).float()  # pixels darker than each level
    darker_than_brightest = below.masked_fill(below == pixels, 0).amax(2, keepdim=True)
    # division of whole numbers, exact in float32 for fewer than 2**24 pixels
    step = (darker_than_brightest / 255).floor_()
    spread = ((below + (step / 2).floor_()) / step.clamp(min=1)).floor_().clamp_(max=255)
    return torch.where(step > 0, spread, every)


def _invert(every: Tensor, strength: Tensor, levels: Tensor, index: Tensor) -> Tensor:
    return 255 - every.expand(len(levels), 1, 256)


CURVES: dict[str, Curve] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "posterize": _posterize,
    "solarize": _solarize,
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
}


def blend(levels: Tensor, used: dict[str, Tensor], strength: Tensor) -> Tensor:
    """Each image moved along the line from its grey (color) or smooth (sharpness) version to itself and
    beyond."""
    factor = strength[:, None, None, None]
    weight = {
        name: torch.where(used[name][:, None, None, None], 1 - factor, 0.0).float()
        for name in BLEND
        if name in used
    }
    out = levels.clone()
    # the order of the arithmetic is torchvision's: x + (smooth - x)·(1 - f), but x·f + grey·(1 - f)
    if "sharpness" in used:
        out[..., 1:-1, 1:-1].addcmul_(_smoothing(levels), weight["sharpness"])
    if "color" in used:
        out *= torch.where(used["color"][:, None, None, None], factor, 1.0).float()
        out.addcmul_(grey(levels).floor_(), weight["color"])
    return _to_whole(out)


def grey(x: Tensor) -> Tensor:
    """The luma N,1,H,W of images with one or three channels, by torchvision's weights."""
    if x.shape[1] == 1:
        return x.clone()
    if x.shape[1] != 3:
        raise InputError(
            f"grey is defined for 1 or 3 channels, found {x.shape[1]}; leave this augmentation out"
        )
    return (x[:, :1] * 0.2989).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114)


def inside(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, *, height: int, width: int) -> Tensor:
    """Bool N,1,height,width: which pixels have top <= row < bottom and left <= column < right."""
    row = torch.arange(height, device=top.device)
    column = torch.arange(width, device=top.device)
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    return rows[:, None, :, None] & columns[:, None, None]


def _smoothing(levels: Tensor) -> Tensor:
    """What PIL's smoothing filter (weights 1/13, centre 5/13) adds to each level inside the border."""
    rows = (levels[..., :-2, :] + levels[..., 1:-1, :]).add_(levels[..., 2:, :])
    box = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:])
    return box.sub_(levels[..., 1:-1, 1:-1], alpha=9).div_(13).round_()


def _to_whole(levels: Tensor) -> Tensor:
    """Clamped to 0..255 and truncated, in place."""
    return levels.clamp_(0, 255).floor_()
