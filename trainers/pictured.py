"""Images with a map of how far they are from others, as reports show them: see `ImageMaps`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trainers.images import nearest_levels

DIGITS = 4  # significant ones, of a number that a picture is drawn from


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
