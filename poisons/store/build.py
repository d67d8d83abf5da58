"""Builds the images of a data set, chunk by chunk, from a source or by applying a perturbation to clean
images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from poisons.base import Perturbation
from poisons.data_spec import DataSpec
from poisons.rng import rng
from poisons.sources.base import Reading
from poisons.stratify import stratified
from trainers.images import Images, balanced

CHUNK = 2**24  # bytes of images processed at a time


@dataclass(frozen=True)
class Part:
    """Some of the `of` images of a data set: the final images, the images before poisoning (or None), and the
    rows of the source that their content comes from (int64)."""

    images: Images
    before: Images | None
    index: Tensor
    of: int


def open_source(spec: DataSpec) -> Reading:
    """The split that a spec takes its images from, after checking that the bytes match its key."""
    return spec.source.pinned().open(spec.split)


def read_source(spec: DataSpec, reading: Reading) -> Iterator[Part]:
    """The clean images of a spec, from `reading`."""
    rows = balanced(reading.y, spec.limit)
    at, size = 0, 1
    while at < len(rows):
        some = rows[at : at + size]
        images = reading.take(some)
        yield Part(images, None, some, len(rows))
        at, size = at + size, per_chunk(images)


def poison(spec: DataSpec, clean: Images, index: Tensor, perturbation: Perturbation) -> Iterator[Part]:
    """Clean images with `perturbation` applied to a share `spec.ratio` of each class, or, if shuffled, to the
    content of other images."""
    chosen = chosen_images(spec, clean)
    rows = None if spec.crafted_on is not None else torch.arange(len(clean))
    if spec.shuffled:
        index = index[content_rows(spec, len(clean))]
    at = 0
    for chunk in contents(spec, clean):
        here = slice(at, at + len(chunk))
        some = chosen[here].nonzero().squeeze(1)
        changed = perturbation.apply(chunk.take(some), None if rows is None else rows[here][some])
        x = chunk.x.clone()
        x[some] = changed.x.to(x.device)
        yield Part(Images(x, chunk.y, chunk.num_classes), chunk, index[here], len(clean))
        at += len(chunk)


def contents(spec: DataSpec, clean: Images) -> Iterator[Images]:
    """The clean content of a data set, chunk by chunk, with the data set's labels."""
    if not spec.shuffled:
        yield from clean.chunks(per_chunk(clean))
        return
    order = content_rows(spec, len(clean))
    for rows in torch.arange(len(clean)).split(per_chunk(clean)):
        yield Images(clean.x[order[rows]], clean.y[rows], clean.num_classes)


def content_rows(spec: DataSpec, number: int) -> Tensor:
    """The clean image (of `number`) under each row of a data set; int64."""
    if not spec.shuffled:
        return torch.arange(number)
    return torch.randperm(number, generator=rng(spec.seed, "shuffled"))


def chosen_images(spec: DataSpec, clean: Images) -> Tensor:
    """Which images are poisoned; bool N."""
    if spec.ratio == 1:
        return torch.ones(len(clean), dtype=torch.bool)
    return stratified(clean.y, clean.num_classes, spec.ratio, rng(spec.seed, "ratio"))


def per_chunk(images: Images) -> int:
    """The number of images in a chunk."""
    return max(1, CHUNK // math.prod(images.shape))


def by_kind(spec: DataSpec, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts of each poison of a chain, by kind; a repeated kind is numbered."""
    found: dict[str, Any] = {}
    for poison, own in zip(spec.poison, facts, strict=True):
        name = poison.kind
        if name in found:
            name = f"{name} {sum(known.split(' ')[0] == name for known in found) + 1}"
        found[name] = own
    return found
