"""OPS-Position (Wu, Chen, Xie, Huang; ICLR 2023, Table A): a position for each class, in colours independent
of the class."""

from __future__ import annotations

from typing import ClassVar

import torch

from poisons.base import CraftContext, Perturbation, Poison
from poisons.methods.moments import gathered
from poisons.methods.pixel_search import Exclusion, Objective, search
from poisons.perturbations.pixel_write import PixelWrite
from poisons.rng import rng
from trainers.images import Images


class OpsPosition(Poison, kind="ops_position"):
    """Writes the pixel that `ops` finds for a class, in each image in a random one of the 2^C extreme
    colours, drawn by the seed."""

    bound: ClassVar[str] = "one pixel"
    published: ClassVar[str] = "ICLR 2023, Table A"
    objective: Objective = "released"
    """Score that the search maximises, as for `ops`."""
    exclusion: Exclusion = "candidate"
    """What classes may not share, as for `ops`."""

    @property
    def splits(self) -> bool:
        return True

    @property
    def transfers(self) -> bool:
        return False

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Perturbation:
        found = search(gathered(clean, context), self.objective, exclusion=self.exclusion)
        gen = rng(seed, "colour of each image")
        size = (len(clean), 1, clean.shape[0])
        colour = torch.randint(2, size, generator=gen, dtype=torch.uint8) * 255
        labels = clean.y.cpu()
        return PixelWrite(found.row[labels], found.column[labels], colour, found.shape, per="image")
