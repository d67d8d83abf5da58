"""Which L2 norms a change of an image can have."""

from __future__ import annotations

import math

from trainers.images import Extent
from trainers.spec import InputError

LEVEL = 1 / 255
LEAST = LEVEL / 10  # root mean square of a change that rounding to whole levels leaves something of


def check_norm(where: str, norm: float, images: Extent) -> None:
    """InputError if changes of this L2 norm, over all C·H·W values in units of the pixel range, vanish in
    rounding or lead out of every image."""
    least, most = (math.sqrt(math.prod(images.shape)) * each for each in (LEAST, 1.0))
    size = "x".join(map(str, images.shape))
    if norm < least:
        raise InputError(
            f"{where}: a change of L2 norm {norm:.3g} in images of {size} is below a tenth of a level for "
            f"each value, and vanishes in rounding: write at least {least:.2g}"
        )
    if norm > most:
        raise InputError(
            f"{where}: no two images of {size} are further apart than {most:.4g}, and this is {norm:.3g}: "
            "write a smaller one"
        )
