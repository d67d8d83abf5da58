"""Linearly separable perturbations, LSP (Yu, Zhang, Chen, Yin, Liu; KDD 2022)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from poisons.base import CraftContext, Poison
from poisons.l2 import check_norm
from poisons.perturbations.patches import Patches, corners
from trainers.images import Extent, Images
from trainers.spec import InputError

LEVELS = 6  # root mean square change, in levels of 1/255, of the published norm
SEPARATION = 10.0  # of the synthetic classes


class Lsp(Poison, kind="lsp"):
    """Adds coloured patches that a linear classifier tells apart: points of Gaussian clusters at the corners
    of a hypercube, one cluster per class, as scikit-learn's make_classification draws them. Every image has
    its own point. The change is bounded in L2."""

    bound: ClassVar[str] = "L2 norm of each image, before rounding"
    published: ClassVar[str] = "KDD 2022"
    patch: PositiveInt | None = None
    """Side of a patch in pixels; null is a quarter of small images, a seventh of large ones, as published."""
    norm: PositiveFloat | None = None
    """L2 norm of the change in units of the pixel range; null is 6/255 root mean square (1.304 for 32 px)."""
    rounding: Literal["truncate", "round"] = "truncate"
    """How the sum of image and change becomes levels; the release truncates, which takes half a level off."""

    @property
    def transfers(self) -> bool:
        return False

    def check(self, clean: Extent) -> None:
        if self.norm is not None:
            check_norm("lsp: norm", self.norm, clean, level=1.0)  # the values of a point are about equal
        values = math.prod(self._grid(clean.shape)) * clean.shape[0]
        if clean.num_classes > 2 ** min(values, 40):
            raise InputError(
                f"lsp: {values} values of patches have room for {2**values} classes, and there are "
                f"{clean.num_classes}: write a smaller patch"
            )

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Patches:
        self.check(clean.extent)
        shape, side = clean.shape[1:], self._side(clean.shape)
        points = separable_points(
            clean.y.cpu(), clean.num_classes, (clean.shape[0], *self._grid(clean.shape)), seed
        )
        area = corners(shape, side)
        size = (points.square() * area).sum((1, 2, 3), keepdim=True).sqrt()
        norm = math.sqrt(math.prod(clean.shape)) * LEVELS / 255 if self.norm is None else self.norm
        levels = points / size * norm * 255
        levels = levels.floor() if self.rounding == "truncate" else levels.round()
        return Patches(levels.clamp(-255, 255).to(torch.int16), side, shape)

    def _side(self, shape: tuple[int, int, int]) -> int:
        smaller = min(shape[1:])
        return self.patch or max(1, smaller // (4 if smaller < 100 else 7))

    def _grid(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        side = self._side(shape)
        return -(-shape[1] // side), -(-shape[2] // side)


def separable_points(labels: Tensor, num_classes: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """A point for each label, float64 N,C,h,w: the points of a class, in their order, for its images."""
    from sklearn.datasets import make_classification  # type: ignore[import-untyped]

    counts = labels.bincount(minlength=num_classes)
    values = math.prod(shape)
    points, of = make_classification(
        n_samples=max(num_classes, num_classes * int(counts.max())),
        n_features=values,
        n_informative=values,
        n_redundant=0,
        n_repeated=0,
        n_classes=num_classes,
        n_clusters_per_class=1,
        class_sep=SEPARATION,
        flip_y=0,
        random_state=seed % 2**32,
    )
    found, of = torch.zeros(len(labels), values, dtype=torch.float64), torch.from_numpy(of)
    for k in range(num_classes):
        mine = (labels == k).nonzero().squeeze(1)
        theirs = (of == k).nonzero().squeeze(1)[: len(mine)]
        found[mine] = torch.from_numpy(points)[theirs]
    return found.view(len(labels), *shape)
