"""The picture of a data set in a store."""

from __future__ import annotations

from poisons.base import Perturbation
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
    poisoned, restored = images, None
    if spec.restored_by is not None:
        found = store.load(spec.restored(None))
        if found is None:
            raise InputError(
                f"{store.path(spec.restored(None))}, the images before they were restored, are not there"
            )
        poisoned, restored = found, images
    perturbation: Perturbation | None = store.perturbation(spec)
    if not spec.shuffled:
        return draw(clean, poisoned, perturbation, restored)
    few = images.balanced(images.num_classes)
    content = clean.take(content_rows(spec, len(clean))[few])
    return draw(content, poisoned.take(few), perturbation, None if restored is None else restored.take(few))
