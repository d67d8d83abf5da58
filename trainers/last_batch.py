"""Whether a network can be trained on the last batch of an epoch, which may be a single image.

With a batch of one image, BatchNorm on 1x1 features has one value per channel, which torch refuses to
normalise. So whether such a batch fails depends on the architecture and on the size of the images.
"""

from __future__ import annotations

import torch
from torch import nn

from trainers.families import Architecture
from trainers.images import Extent
from trainers.meta import META, Shape, on_meta
from trainers.spec import InputError

CPU = torch.device("cpu")

_known: dict[tuple[str, Shape, int], str | None] = {}


def last_batch(images: int, batch_size: int) -> int:
    """The number of `images` in the last batch."""
    return images % batch_size or min(images, batch_size)


def refusal_of_one(architecture: Architecture, *, shape: Shape, num_classes: int) -> str | None:
    """Why the network cannot be trained on a batch of one image of `shape` (C, H, W); None if it can, or
    cannot be built here. It is tried out, on the meta device if possible, and the answer is cached."""
    name = architecture.key, shape, num_classes
    if name not in _known:
        try:
            _known[name] = _tried(architecture, shape, num_classes)
        except InputError:
            return None  # its library is not installed here, or it does not take such images
    return _known[name]


def check_last_batch(
    architecture: Architecture,
    train: Extent,
    batch_size: int,
    *,
    field: str = "train.batch_size",
    limit: str = "data.limit",
) -> None:
    """InputError, naming `field` and `limit`, if a training on `train` ends its epochs with a single image
    that the network cannot be trained on."""
    if last_batch(train.images, batch_size) != 1:
        return
    why = refusal_of_one(architecture, shape=train.shape, num_classes=train.num_classes)
    if why is None:
        return
    size = "x".join(map(str, train.shape))
    cannot = f"and this network cannot be trained on a single {size} image ({why})"
    if train.images == 1:
        raise InputError(f"there is 1 image to train on, {cannot}: take more images ({limit})")
    if batch_size == 1:
        raise InputError(f"{field} is 1, {cannot}: write {field} 2 or more")
    sizes = " or ".join(map(str, nearest_sizes(train.images, batch_size)))
    raise InputError(
        f"{field} {batch_size} leaves a last batch of 1 of {train.images} images, {cannot}: "
        f"write {field} {sizes}, or {limit} {train.images - 1}"
    )


def nearest_sizes(images: int, batch_size: int) -> list[int]:
    """The nearest batch sizes that leave no last batch of one image: one below `batch_size`, if there is any,
    and one above."""
    fit = [size for size in range(2, images + 1) if last_batch(images, size) != 1]
    below = [size for size in fit if size < batch_size]
    return [*below[-1:], *[size for size in fit if size > batch_size][:1]]


def _tried(architecture: Architecture, shape: Shape, num_classes: int) -> str | None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net = on_meta(architecture, shape, num_classes)
        if _error(net, 2, shape, num_classes, META) is None:
            return _error(net, 1, shape, num_classes, META)
        net = architecture.network(num_classes=num_classes, shape=shape, seed=0).train()
        if _error(net, 2, shape, num_classes, CPU) is None:
            return _error(net, 1, shape, num_classes, CPU)
        return None  # it fails on every batch, which is not the question here


def _error(net: nn.Module, images: int, shape: Shape, num_classes: int, device: torch.device) -> str | None:
    """Why a batch of this size gives no logits; None if it does."""
    try:
        out = net(torch.zeros(images, *shape, device=device))
    except Exception as error:  # noqa: BLE001  (a library's network may raise anything)
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None if out.shape == (images, num_classes) else f"its logits are {tuple(out.shape)}"
