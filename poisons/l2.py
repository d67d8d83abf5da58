"""Which L2 norms a change of an image can have."""

from __future__ import annotations

import math

from trainers.images import Extent
from trainers.spec import InputError

TENTH = 0.1  # of a level, root mean square: rounding leaves something of noise whose values vary


def check_norm(where: str, norm: float, images: Extent, *, level: float = TENTH) -> None:
    """InputError if changes of this L2 norm, over all C·H·W values in units of the pixel range, lead out of
    every image, or vanish in rounding: where their root mean square is below that share of a level."""
    least, most = (math.sqrt(math.prod(images.shape)) * each for each in (level / 255, 1.0))
    size = "x".join(map(str, images.shape))
    if norm < least:
        raise InputError(
            f"{where}: a change of L2 norm {norm:.3g} in images of {size} is below {level:g}/255 for each "
            f"value, and vanishes in rounding: write at least {math.ceil(1000 * least) / 1000:g}"
        )
    if norm > most:
        raise InputError(
            f"{where}: no two images of {size} are further apart than {most:.4g}, and this is {norm:.3g}: "
            "write a smaller one"
        )
