"""Pairs of sets that hold the same images, row by row, before and after a perturbation."""

from __future__ import annotations

import torch

from trainers.images import Extent, Images
from trainers.spec import InputError


def check_pairs(after: Images, clean: Images, *, probe: str, name: str) -> None:
    """InputError if `clean` does not hold the images under `after` (called `name`), as far as labels and
    shape show."""
    check_pair_extents(after.extent, clean.extent, probe=probe, name=name)
    if not torch.equal(after.y.cpu(), clean.y.cpu()):
        raise _unpaired(after.extent, clean.extent, probe=probe, name=name)


def check_pair_extents(after: Extent, clean: Extent, *, probe: str, name: str) -> None:
    """InputError if images of these extents are not paired row by row."""
    if (after.images, after.shape) != (clean.images, clean.shape):
        raise _unpaired(after, clean, probe=probe, name=name)


def _unpaired(after: Extent, clean: Extent, *, probe: str, name: str) -> InputError:
    return InputError(
        f"the probe {probe!r}: the set 'clean' {(clean.images, *clean.shape)} does not hold the images "
        f"under {name} {(after.images, *after.shape)}, row by row; give both the same source and limit, "
        "and 'clean' the poison clean"
    )
