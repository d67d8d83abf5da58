"""OPS-Color (Wu, Chen, Xie, Huang; ICLR 2023, Table A): a colour for each class, at positions independent of
the class."""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
from torch import Tensor

from poisons.base import CraftContext, Perturbation, Poison
from poisons.perturbations.pixel_write import PixelWrite
from poisons.store.build import per_chunk
from trainers.images import Images
from trainers.spec import InputError


class OpsColor(Poison, kind="ops_color"):
    """Sets one pixel of each image to the colour of its class, at the position where the image differs most
    from that colour (sum over channels); ties go to the last position.

    Classes have different colours: first the 2^C with every channel at 0 or 255, in binary order, then those
    on grids of 3, 4, ... levels. InputError if there are more classes than colours.
    """

    bound: ClassVar[str] = "one pixel"
    published: ClassVar[str] = "ICLR 2023, Table A"

    @property
    def transfers(self) -> bool:
        return False

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        c, height, width = clean.shape
        palette = distinct_colours(clean.num_classes, c)
        chunks = clean.chunks(per_chunk(clean))
        parts = [farthest(chunk.x.cpu(), palette[chunk.y.cpu()]) for chunk in chunks]
        position = torch.cat([torch.empty(0, dtype=torch.int64), *parts])[:, None]
        colour = palette[clean.y.cpu()][:, None]
        return PixelWrite(position // width, position % width, colour, (height, width), per="image")


def distinct_colours(count: int, channels: int) -> Tensor:
    """`count` colours, uint8 count,C: coarse grids of levels before finer ones, the first channel counting
    most."""
    if count > 256**channels:
        raise InputError(f"{count} classes cannot have a colour each: there are {256**channels}")
    found: dict[tuple[int, ...], None] = {}
    for levels in range(2, 257):
        grid = [round(255 * i / (levels - 1)) for i in range(levels)]
        for colour in itertools.product(grid, repeat=channels):
            if len(found) == count:
                break
            found[colour] = None
    return torch.tensor(list(found), dtype=torch.uint8).reshape(count, channels)


def farthest(x: Tensor, colour: Tensor) -> Tensor:
    """The position, as a flat index, where each of the images `x` (uint8 N,C,H,W) is farthest from its
    `colour` (uint8 N,C); int64 N."""
    distance = (x.short() - colour[:, :, None, None].short()).abs().sum(1).flatten(1)
    positions = distance.shape[1]
    return (distance * positions + torch.arange(positions)).amax(1) % positions
