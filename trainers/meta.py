"""Networks on the meta device, which computes shapes but no values."""

from __future__ import annotations

import torch
from torch import nn

from trainers.errors import InputError
from trainers.families import Architecture, Normalised
from trainers.images import Extent

META = torch.device("meta")

Shape = tuple[int, int, int]


def built_on_meta(architecture: Architecture, shape: Shape, num_classes: int) -> nn.Module:
    """The network as its library builds it, on the meta device. Raises RuntimeError, NotImplementedError or
    ValueError if the library needs real values."""
    with torch.random.fork_rng(devices=[]), META:
        return architecture.build(num_classes=num_classes, shape=shape)


def on_meta(architecture: Architecture, shape: Shape, num_classes: int) -> nn.Module:
    """The network on the meta device, in training mode and channels_last as in a training. If its library
    needs real values, it is built on the CPU and then moved."""
    with torch.random.fork_rng(devices=[]):
        try:
            net = built_on_meta(architecture, shape, num_classes)
        except (RuntimeError, NotImplementedError, ValueError):
            net = architecture.build(num_classes=num_classes, shape=shape)
    return Normalised(net).to(META, memory_format=torch.channels_last).train()  # type: ignore[call-overload]


_built: dict[tuple[str, Shape, int], str | None] = {}


def check_buildable(architecture: Architecture, images: Extent) -> None:
    """InputError if there is no such network for images of this extent. It is tried out once, and not where
    its library is missing."""
    name = architecture.key, images.shape, images.num_classes
    if name not in _built:
        _built[name] = _refusal(architecture, images) if architecture.available else None
    if (why := _built[name]) is not None:
        raise InputError(why)


def _refusal(architecture: Architecture, images: Extent) -> str | None:
    try:
        on_meta(architecture, images.shape, images.num_classes)
    except InputError as error:
        return str(error)
    except Exception:  # noqa: BLE001  (a lack of memory, say, which another machine may not have)
        return None
    return None
