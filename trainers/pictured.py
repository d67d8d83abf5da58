"""How far images are from others, as numbers and as reports show them: see `ImageMaps`."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from trainers.images import nearest_levels

DIGITS = 4  # significant ones, of a number that a picture is drawn from


def psnr(x: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """The PSNR in dB of float images in [0, 1], of all of them together, where `mask` 1,1,H,W is 1; at most
    100, if they are equal."""
    apart = (x - truth).double().square()
    error = apart.mean() if mask is None else (apart * mask).sum() / mask.expand_as(apart).sum()
    return -10 * math.log10(max(error.item(), 1e-10))


def rounded(values: Tensor, digits: int = DIGITS) -> Any:
    """Nested lists of the values with so many significant digits, which takes a third of the space."""

    def each(part: Any) -> Any:
        return [each(one) for one in part] if isinstance(part, list) else float(f"{part:.{digits}g}")

    return each(values.tolist())


def pictured(label: str, image: Tensor, other: Tensor) -> dict[str, Any]:
    """A float image C,H,W in [0, 1], and the mean distance of its channels from those of another at each
    pixel."""
    apart = (image - other).abs().mean(0).cpu()
    return {
        "label": label,
        "pixels": nearest_levels(image.cpu()).movedim(0, -1).tolist(),
        "response": rounded(apart),
    }
