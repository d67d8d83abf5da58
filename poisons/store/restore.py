"""Builds the images of a data set that a defense has restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from poisons.data_spec import DataSpec
from poisons.store.build import Part, contents, per_chunk
from trainers.images import Images


def restored_parts(spec: DataSpec, clean: Images, index: Tensor, images: Images) -> Iterator[Part]:
    """The restored `images` of a data set, beside the clean content under them; `index` are its rows of the
    source."""
    at = 0
    for chunk in contents(spec, clean):
        here = slice(at, at + len(chunk))
        now = Images(images.x[here].cpu(), chunk.y, chunk.num_classes)
        yield Part(now, chunk, index[here], len(clean))
        at += len(chunk)


def held_out(images: Images, rows: Tensor, known: Tensor) -> Images:
    """The `images` whose rows of the source are not among `known` (both int64)."""
    return images.take((~torch.isin(rows, known)).nonzero().squeeze(1))


def perturbation_left(spec: DataSpec, clean: Images, before: Images, after: Images) -> dict[str, Any]:
    """How much of the perturbation in `before` is still in `after`: the projection of what differs from the
    clean content on it, as a share of it. 1 where nothing was removed, about 0 where it is gone; nothing for
    images that were not perturbed."""
    along = whole = 0.0
    at, size = 0, per_chunk(clean)
    for chunk in contents(spec, clean):
        here = slice(at, at + len(chunk))
        for some in torch.arange(len(chunk)).split(max(1, size // 8)):
            content = chunk.x[some].double()
            noise = before.x[here][some].double() - content
            along += ((after.x[here][some].cpu().double() - content) * noise).sum().item()
            whole += noise.square().sum().item()
        at += len(chunk)
    return {"perturbation_left": round(along / whole, 4)} if whole else {}
