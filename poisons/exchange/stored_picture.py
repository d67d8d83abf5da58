"""The picture of a data set in a store."""

from __future__ import annotations

from poisons.data_spec import DataSpec
from poisons.exchange.picture import draw
from poisons.store.build import content_rows
from poisons.store.store import Store
from trainers.spec import InputError


def picture_of(spec: DataSpec, store: Store) -> bytes:
    """The picture of a data set in the store, as PNG."""
    images = store.load(spec)
    if images is None:
        raise InputError(f"{store.path(spec)} is damaged; the next sweep that needs it builds it again")
    clean = store.load(spec.clean)
    if clean is None:
        raise InputError(f"{store.path(spec.clean)}, the clean images, are not there to compare with")
    perturbation = store.perturbation(spec)
    if spec.shuffled:
        few = images.balanced(images.num_classes)
        return draw(clean.take(content_rows(spec, len(clean))[few]), images.take(few), perturbation)
    return draw(clean, images, perturbation)
