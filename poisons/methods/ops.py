"""One-Pixel Shortcut (Wu, Chen, Xie, Huang; ICLR 2023): a few pixels per class, set to extreme colours.

The score of a candidate (position, colour) is a function of the per-pixel sums and second moments of the
class. So one integer pass over the images serves all colours, objectives and numbers of pixels, and the
choice is exact.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from poisons.base import CraftContext, Perturbation, Poison
from poisons.methods.moments import gathered
from poisons.methods.pixel_search import Exclusion, Further, Objective, search
from poisons.perturbations.chain import Chain
from poisons.perturbations.delta import Delta, whole_levels
from poisons.rng import rng
from poisons.stratify import stratified
from trainers.images import Extent, Images
from trainers.spec import Eps, InputError


class Ops(Poison, kind="ops"):
    """Writes the same few pixels into every image of a class, found by search.

    Objectives are written in d, the distance of a pixel's channels from the colour, over the images of the
    class: `released` is mean / standard deviation of d pooled over channels; `paper`, its Eq. 2, mean /
    variance of the sum of d over channels; `art`, in the Adversarial Robustness Toolbox, mean - variance of
    the mean of d over channels, in units of the pixel range. Colours have every channel at 0 or 255.

    Classes choose in the order of their labels; what a class has chosen is excluded for the others, so that
    the two do not become indistinguishable (in the Toolbox nothing is). Of several pixels, `ranked`, as
    released, may take one position twice in two colours, and the lower-ranked colour is written last; with
    `nested`, classes take turns, at positions that they have not used.

    For `released` and `paper`, a candidate whose distance is the same in all images of the class (and, for
    `released`, in all channels) has zero spread. If its colour changes anything, it beats every candidate
    with spread, the larger change first; if not, it loses to all others. Remaining ties go to the last
    candidate in the order row, column, colour (black first, white last), for `art` to the first in the order
    colour, row, column. A class without images gets no pixel. InputError if a class finds too few candidates.

    The search uses at least one image of each class, and a smaller `search_fraction` is part of a larger one.
    Noise is rounded to whole levels, and pixels are written over it.
    """

    bound: ClassVar[str] = "`pixels` pixels"
    published: ClassVar[str] = "ICLR 2023"
    objective: Objective = "released"
    """Score to maximise: of the released code, of the paper's Eq. 2, or of the Toolbox (ART)."""
    pixels: PositiveInt = 1
    """Pixels of each class."""
    further: Further = "ranked"
    """Whether a class takes its best pixels at once, or one a round, so that k include the k - 1."""
    exclusion: Exclusion = "candidate"
    """What classes may not share: a candidate (position and colour), a position, or nothing."""
    search_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each class that the search uses, drawn by the seed; all images get the pixels."""
    upload_noise: Eps | None = None
    """Bound of uniform noise on images outside that share, from 1/255 (one level) to 1; null adds none."""

    @property
    def splits(self) -> bool:
        return True

    @model_validator(mode="after")
    def _noise_has_a_place(self) -> Ops:
        if self.upload_noise is None:
            return self
        if self.search_fraction == 1:
            raise ValueError(
                "`upload_noise` is added to images that the search does not use: "
                "give a `search_fraction` below 1 too"
            )
        if not Fraction(1, 255) <= self.upload_noise <= 1:
            raise ValueError(
                f"`upload_noise` must be between 1/255 (one level) and 1; "
                f"found {self.upload_noise}; write 8/255"
            )
        return self

    @property
    def transfers(self) -> bool:
        return self.upload_noise is None

    def check(self, clean: Extent) -> None:
        channels, height, width = clean.shape
        colours = 2**channels if self.further == "ranked" else 1  # at one position, as released
        if self.pixels > (most := height * width * colours):
            raise InputError(
                f"{self.kind}: {self.pixels:,} pixels of a class, and images of {height}x{width} have room "
                f"for {most:,}: write fewer `pixels`"
            )

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        name, keep = "moments", None
        if self.search_fraction < 1:
            name = f"moments-fraction-{self.search_fraction}-seed-{seed}"
            gen = rng(seed, "search fraction")
            keep = stratified(clean.y, clean.num_classes, self.search_fraction, gen)
        found = search(
            gathered(clean, context, name=name, keep=keep),
            self.objective,
            pixels=self.pixels,
            further=self.further,
            exclusion=self.exclusion,
        )
        if keep is None or self.upload_noise is None:
            return found
        return Chain((uniform_noise(clean, self.upload_noise, without=keep, seed=seed), found))


def uniform_noise(images: Images, eps: Fraction, *, without: Tensor, seed: int) -> Delta:
    """Noise uniform in ±eps, rounded to whole levels, for each image except those in `without` (bool N)."""
    gen = rng(seed, "upload noise")
    levels = torch.int8 if eps * 255 < 128 else torch.int16
    delta = torch.empty((len(images), *images.shape), dtype=levels)
    for part in delta.split(max(1, 2**22 // math.prod(images.shape))):
        noise = (2 * torch.rand(part.shape, generator=gen) - 1) * float(eps)
        part.copy_(whole_levels(noise, "signed", eps))
    delta[without] = 0
    return Delta(delta)
