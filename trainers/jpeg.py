"""JPEG compression of a batch: what is left of images that were encoded and decoded, on their device.

Bit for bit what libjpeg-turbo, and so Pillow, makes of them with its defaults: baseline quantisation tables
scaled by `quality`, the accurate integer DCT, smooth upsampling of the chroma. Entropy coding is lossless and
left out. All arithmetic is on int32.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Subsampling = Literal["4:4:4", "4:2:0"]

# Annex K of the JPEG standard (ITU-T T.81)
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
SIDE = 8  # of a block
BITS = 13  # fractional bits of the constants of the DCT
EXTRA = 2  # fractional bits between its passes


def jpeg(x: Tensor, quality: int, subsampling: Subsampling = "4:2:0") -> Tensor:
    """uint8 N,C,H,W in 0..255, after compression with `quality` in 1..100; C is 1 (grey) or 3 (RGB)."""
    h, w = x.shape[2:]
    if x.shape[1] == 1:
        return _coded(x.int(), _table(LUMA, quality, x.device))[..., :h, :w].to(torch.uint8)
    y, *chroma = _to_ycc(x.int())
    luma = _coded(y, _table(LUMA, quality, x.device))[..., :h, :w]
    table = _table(CHROMA, quality, x.device)
    if subsampling == "4:4:4":
        colours = [_coded(part, table)[..., :h, :w] for part in chroma]
    else:
        small = (_halved(part) for part in chroma)
        kept = (_coded(part, table)[..., : (h + 1) // 2, : (w + 1) // 2] for part in small)
        colours = [_doubled(part)[..., :h, :w] for part in kept]
    return _to_rgb(luma, *colours).to(torch.uint8)


@cache
def _table(base: tuple[tuple[int, ...], ...], quality: int, device: torch.device) -> Tensor:
    """The quantisation table of a quality, 8,8, not to be written to. Copied to the device once, since a copy
    makes the host wait."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    rows = [[min(255, max(1, (value * percent + 50) // 100)) for value in row] for row in base]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _coded(plane: Tensor, table: Tensor) -> Tensor:
    """A plane N,1,H,W in 0..255, after transform and quantisation; padded to whole blocks."""
    h, w = plane.shape[2:]
    blocks = _blocks(_padded(plane, SIDE, SIDE) - 128)
    scale = table * SIDE  # the transform multiplies by 8
    found = _forward(_forward(blocks.mT, first=True).mT, first=False)
    quantised = found.sign() * ((found.abs() + scale // 2) // scale)
    back = _inverse(_inverse(quantised * table, BITS - EXTRA).mT, BITS + EXTRA + 3).mT
    return _plane(back + 128, -h // SIDE * -SIDE, -w // SIDE * -SIDE).clamp_(0, 255)


def _padded(plane: Tensor, rows: int, columns: int) -> Tensor:
    """Its last row and column repeated up to multiples of so many rows and columns."""
    h, w = plane.shape[2:]
    return F.pad(plane.float(), (0, -w % columns, 0, -h % rows), mode="replicate").int()


def _blocks(plane: Tensor) -> Tensor:
    """N,1,H,W as N,H/8,W/8,8,8."""
    n, _, h, w = plane.shape
    return plane.view(n, h // SIDE, SIDE, w // SIDE, SIDE).transpose(2, 3)


def _plane(blocks: Tensor, h: int, w: int) -> Tensor:
    """N,H/8,W/8,8,8 as N,1,H,W."""
    return blocks.transpose(2, 3).reshape(len(blocks), 1, h, w)


def _to_ycc(x: Tensor) -> list[Tensor]:
    """RGB N,3,H,W to Y, Cb and Cr, each N,1,H,W in 0..255."""
    r, g, b = x.split(1, dim=1)
    half, offset = 1 << 15, 128 << 16
    y = (19595 * r + 38470 * g + 7471 * b + half) >> 16
    cb = (-11059 * r - 21709 * g + 32768 * b + offset + half - 1) >> 16
    cr = (32768 * r - 27439 * g - 5329 * b + offset + half - 1) >> 16
    return [y, cb, cr]


def _to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """The inverse, N,3,H,W in 0..255."""
    blue, red, half = cb - 128, cr - 128, 1 << 15
    r = y + ((91881 * red + half) >> 16)
    g = y + ((-22554 * blue - 46802 * red + half) >> 16)
    b = y + ((116130 * blue + half) >> 16)
    return torch.cat([r, g, b], dim=1).clamp_(0, 255)


def _halved(plane: Tensor) -> Tensor:
    """Means of two by two pixels, which are rounded down and up in turn. Blocks are filled to the right with
    pixels, and below with means."""
    n, _, h, w = (padded := _padded(plane, 2, 2 * SIDE)).shape
    four = padded.view(n, 1, h // 2, 2, w // 2, 2).sum((3, 5), dtype=torch.int32)
    return (four + 1 + torch.arange(w // 2, device=plane.device, dtype=torch.int32) % 2) >> 2


def _doubled(plane: Tensor) -> Tensor:
    """Twice as high and wide: each pixel is 9/16 of the nearest one, 3/16 of two and 1/16 of a fourth; planes
    of up to two columns are repeated."""
    h, w = plane.shape[2:]
    if w <= 2:
        return plane.repeat_interleave(2, 2).repeat_interleave(2, 3)
    tall = F.pad(plane.float(), (0, 0, 1, 1), mode="replicate").int()
    rows = torch.stack([3 * plane + tall[..., :h, :], 3 * plane + tall[..., 2:, :]], 3).flatten(2, 3)
    wide = F.pad(rows.float(), (1, 1, 0, 0), mode="replicate").int()
    left, right = (3 * rows + wide[..., :w] + 8) >> 4, (3 * rows + wide[..., 2:] + 7) >> 4
    return torch.stack([left, right], 4).flatten(3, 4)


def _forward(x: Tensor, *, first: bool) -> Tensor:
    """The DCT along the second-last axis of 8 (Loeffler, Ligtenberg, Moschytz; ICASSP 1989), times sqrt(8).
    The first of two passes keeps EXTRA bits, which the second rounds away."""
    t = x.unbind(-2)
    sums, (d7, d6, d5, d4) = [t[i] + t[7 - i] for i in range(4)], [t[i] - t[7 - i] for i in range(4)]
    outer, inner = sums[0] + sums[3], sums[1] + sums[2]
    a, b = sums[0] - sums[3], sums[1] - sums[2]
    z, drop = (a + b) * 4433, BITS - EXTRA if first else BITS + EXTRA
    whole = [(part << EXTRA) if first else _rounded(part, EXTRA) for part in (outer + inner, outer - inner)]
    two, six = _rounded(z + a * 6270, drop), _rounded(z - b * 15137, drop)
    seven, five, three, one = (_rounded(part, drop) for part in _odd(d4, d5, d6, d7))
    return torch.stack([whole[0], one, two, three, whole[1], five, six, seven], -2)


def _inverse(x: Tensor, drop: int) -> Tensor:
    """The inverse DCT along the second-last axis of 8; `drop` bits are rounded away."""
    t = x.unbind(-2)
    z = (t[2] + t[6]) * 4433
    low, high = z - t[6] * 15137, z + t[2] * 6270
    total, difference = (t[0] + t[4]) << BITS, (t[0] - t[4]) << BITS
    even = (total + high, difference + low, difference - low, total - high)
    odd = _odd(t[7], t[5], t[3], t[1])[::-1]
    first = [_rounded(even[i] + odd[i], drop) for i in range(4)]
    last = [_rounded(even[i] - odd[i], drop) for i in range(3, -1, -1)]
    return torch.stack(first + last, -2)


def _odd(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The odd half of the transform, which is its own transpose."""
    z5 = (a + c + b + d) * 9633
    z1, z2 = (a + d) * -7373, (b + c) * -20995
    z3, z4 = (a + c) * -16069 + z5, (b + d) * -3196 + z5
    return a * 2446 + z1 + z3, b * 16819 + z2 + z4, c * 25172 + z2 + z3, d * 12299 + z1 + z4


def _rounded(x: Tensor, bits: int) -> Tensor:
    """x / 2**bits, to the nearest; halves up."""
    return (x + (1 << (bits - 1))) >> bits
