"""One-Pixel Shortcut (Wu, Chen, Xie, Huang; ICLR 2023): a few pixels per class, set to extreme colours.

The score of a candidate (position, colour) is a function of per-pixel sums and second moments of the class,
so one integer pass over the images serves every colour, every objective and every number of pixels, and the
choice is exact.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated

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
from trainers.images import Images
from trainers.spec import Eps


class Ops(Poison, kind="ops"):
    """`pixels` per class, found by search.

    With d the distance of a pixel's channels from the colour, over the images of the class, `objective` is
    what is maximised: `released`, in the paper's released code, mean / standard deviation of d pooled over
    channels; `paper`, its Eq. 2, mean / variance of the sum of d over channels; `art`, in the Adversarial
    Robustness Toolbox, mean - variance of the mean of d over channels, in units of the pixel range. Colours
    have every channel at 0 or 255.

    Classes choose in the order of their labels. `exclusion` says what a class may not take because another
    has taken it before, or the two would merge: that `candidate` (position and colour), any at that
    `position`, or `none`, as in the Toolbox. `further` says how a class takes several pixels: `ranked`, as
    released, its best candidates at once, so that one position may come twice, in two colours, and the
    lower-ranked is written over the other; `nested`, classes in turn, one pixel a round, at positions that
    the class has not taken yet, so that k pixels hold the k - 1 pixels.

    For `released` and `paper`, a candidate whose distance is the same in all images of the class (and, for
    `released`, in all channels) has no spread: if the colour changes anything, it beats every candidate with
    spread, the larger change first; if not, every other beats it. Remaining ties go to the last candidate in
    the order row, column, colour (black first, white last), for `art` to the first in the order colour, row,
    column. A class without images gets no pixel. InputError if a class finds too few candidates.

    With `search_fraction` only that share of each class is searched (at least one image; `seed` draws it,
    and a smaller one lies inside a larger one), and the pixels go on all images. `upload_noise` lays uniform
    noise of ±eps, in whole levels, on the images outside that share, below the pixels.
    """

    objective: Objective = "released"
    pixels: PositiveInt = 1
    further: Further = "ranked"
    exclusion: Exclusion = "candidate"
    search_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    upload_noise: Eps | None = None

    @model_validator(mode="after")
    def _noise_has_a_place(self) -> Ops:
        if self.upload_noise is None:
            return self
        if self.search_fraction == 1:
            raise ValueError(
                "`upload_noise` is laid on the images that the search has not seen: "
                "give a `search_fraction` below 1 too"
            )
        if not Fraction(1, 255) <= self.upload_noise <= 1:
            raise ValueError(
                f"`upload_noise` lies between 1/255 (one level) and 1; found {self.upload_noise}; write 8/255"
            )
        return self

    @property
    def transfers(self) -> bool:
        return self.upload_noise is None

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
    """Noise uniform in ±eps, rounded to whole levels, for each image but those `without` (bool N)."""
    gen = rng(seed, "upload noise")
    levels = torch.int8 if eps * 255 < 128 else torch.int16
    delta = torch.empty((len(images), *images.shape), dtype=levels)
    for part in delta.split(max(1, 2**22 // math.prod(images.shape))):
        noise = (2 * torch.rand(part.shape, generator=gen) - 1) * float(eps)
        part.copy_(whole_levels(noise, "signed", eps))
    delta[without] = 0
    return Delta(delta)
