"""RandPix (Wu, Chen, Xie, Huang; ICLR 2023, Table B): One-Pixel Shortcut without the search."""

from __future__ import annotations

from typing import ClassVar

import torch

from poisons.base import CraftContext, Perturbation, Poison
from poisons.methods.pixel_search import colours
from poisons.perturbations.pixel_write import PixelWrite
from poisons.rng import rng
from trainers.images import Images
from trainers.spec import InputError


class RandPix(Poison, kind="randpix"):
    """One pixel per class at a random position in a random one of the 2^C extreme colours, drawn by `seed`;
    no two classes share both. InputError if there are more classes than candidates."""

    bound: ClassVar[str] = "one pixel"
    published: ClassVar[str] = "ICLR 2023, Table B"

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        c, height, width = clean.shape
        palette, classes = colours(c), clean.num_classes
        candidates = height * width * len(palette)
        if classes > candidates:
            raise InputError(f"{classes} classes cannot have a pixel each: there are {candidates} candidates")
        gen = rng(seed, "pixel of each class")
        chosen = torch.randperm(candidates, generator=gen)[:classes, None]
        position = chosen // len(palette)
        colour = palette[chosen % len(palette)].to(torch.uint8)
        return PixelWrite(position // width, position % width, colour, (height, width))
