"""Two sets of images that are the same ones row by row, before and after a perturbation."""

from __future__ import annotations

import torch

from trainers.images import Images
from trainers.spec import InputError


def check_pairs(after: Images, clean: Images, *, probe: str, name: str) -> None:
    """InputError if `clean` does not hold the images under `after` (called `name`), as far as labels and
    shape show it."""
    if after.x.shape == clean.x.shape and torch.equal(after.y.cpu(), clean.y.cpu()):
        return
    raise InputError(
        f"the probe {probe!r}: the set 'clean' ({tuple(clean.x.shape)}) does not hold the images under "
        f"{name} ({tuple(after.x.shape)}), row by row; give both the same source and limit, and that one "
        "poison: clean"
    )
