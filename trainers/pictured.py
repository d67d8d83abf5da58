"""Images with a map of how far they are from others, as reports show them: see `ImageMaps`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trainers.images import nearest_levels

DIGITS = 4  # significant ones, of a number that a picture is drawn from


def pictured(label: str, image: Tensor, other: Tensor) -> dict[str, Any]:
    """A float image C,H,W in [0, 1], and the mean distance of its channels from those of another at each
    pixel."""
    apart = (image - other).abs().mean(0).cpu()
    return {
        "label": label,
        "pixels": nearest_levels(image.cpu()).movedim(0, -1).tolist(),
        "response": [[float(f"{value:.{DIGITS}g}") for value in row] for row in apart.tolist()],
    }
