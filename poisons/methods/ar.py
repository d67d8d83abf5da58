"""Autoregressive perturbations (Sandoval-Segura, Singla, Geiping, Goldblum, Goldstein, Jacobs; NeurIPS
2022)."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from poisons.base import CraftContext, Poison
from poisons.l2 import check_norm
from poisons.perturbations.autoregression import CROP, Autoregression, Norm, signals
from poisons.rng import rng
from trainers.flops import Shape, Work
from trainers.images import Extent, Images
from trainers.spec import Eps, InputError
from trainers.stored import OBJECT

SIDE = 36  # of the signals with which coefficients are tried, before they are cropped
RUNS = 3  # signals of each process that must stay small
LARGEST = 50.0  # L2 norm of a signal that counts as small
BATCH = 2048  # processes tried at a time
FEW, MANY = 10.0, 3.0  # published responses for 10 classes, and for 100
TRIED, GROWTH = 4e4, 1.5  # processes tried for 100 classes, and how that grows with their number
VALUES, KERNELS = 1.5e4, 3e3  # written for a process, and run for a batch
PUBLISHED = Path(__file__).with_name("ar_published.json")


class Ar(Poison, kind="ar"):
    """Adds noise of an autoregressive process, each class with its own coefficients, each image with its own
    start. No network is needed, and the images are not looked at. The change is bounded in L2.

    Coefficients are drawn until they are stable and unlike those accepted before: the filter that annihilates
    an earlier class responds to the new one by at least `response`. That takes seconds for 100 classes, and
    minutes for 1,000, which also need more `tries`. Or they are the authors', who published some for 10
    classes and for 100. Four rows and columns of a signal are dropped at any size, as published for 32 px.
    """

    bound: ClassVar[str] = "L2 eps of each image, before rounding"
    published: ClassVar[str] = "NeurIPS 2022"
    smoke: ClassVar[dict[str, Any]] = {"response": 2.0}
    eps: Eps = Fraction(1)
    """Size of the change in units of the pixel range, in `norm`; published 1 for 32 px, 3 for 96."""
    norm: Norm = "L2"
    """L2 over all C·H·W values, or Linf, which is published as weaker, with 8/255."""
    coefficients: Literal["drawn", "published"] = "drawn"
    """drawn by the seed, or the authors', which are for 10 or 100 classes of RGB images."""
    response: PositiveFloat | None = None
    """Smallest response of an earlier class's filter (paper: mr); null is 10 up to 10 classes, else 3."""
    tries: PositiveInt = 1_000_000
    """Processes that are tried, at most."""

    @model_validator(mode="after")
    def _some_change(self) -> Ar:
        if self.eps <= 0 or (self.norm == "Linf" and self.eps > 1):
            raise ValueError(f"eps must be above 0, and at most 1 in Linf; found {self.eps}; write 1 in L2")
        if self.norm == "Linf" and (self.eps * 255).denominator > 1:
            near = max(1, round(self.eps * 255))
            raise ValueError(f"eps is whole levels in Linf; found {self.eps}; write {near}/255")
        if self.coefficients == "published" and self.response is not None:
            raise ValueError("published coefficients are not drawn: leave `response` out")
        return self

    @property
    def transfers(self) -> bool:
        return False

    def check(self, clean: Extent) -> None:
        if self.norm == "L2":
            check_norm("ar: eps", float(self.eps), clean)
        if self.coefficients == "drawn":
            self._check_tries(clean.num_classes)
            return
        if clean.shape[0] != 3 or str(clean.num_classes) not in known():
            raise InputError(
                f"ar: coefficients are published for {' and '.join(known())} classes of RGB images; these "
                f"have {clean.num_classes} classes and {clean.shape[0]} channels: write coefficients: drawn"
            )

    def _check_tries(self, classes: int) -> None:
        """InputError if they are too few, as far as that is known: for many classes, with the published
        response."""
        about = expected(classes)
        if classes > 100 and self.response is None and about > self.tries:
            raise InputError(
                f"ar: {classes:,} classes take about {about:,.0f} processes, and tries is {self.tries:,}: "
                f"write tries: {4 * round(about, -5):.0f}"
            )

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        """The search for coefficients, as far as it was measured: for the published responses."""
        if self.coefficients == "published":
            return Work()
        tried = min(self.tries, expected(num_classes))
        return Work(values=tried * VALUES, kernels=tried / BATCH * KERNELS)

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Autoregression:
        self.check(clean.extent)
        found, size = self._coefficients(clean.extent, seed, context), clean.shape[1:]
        return Autoregression(found, len(clean), size, seed, float(self.eps), self.norm)

    def _coefficients(self, clean: Extent, seed: int, context: CraftContext) -> Tensor:
        """Those of each class, float64 K,C,3,3."""
        if self.coefficients == "published":
            values = torch.tensor(known()[str(clean.num_classes)], dtype=torch.float64)
            return F.pad(values, (0, 1)).unflatten(2, (3, 3))
        usual = FEW if clean.num_classes <= 10 else MANY
        wanted = usual if self.response is None else self.response
        return coefficients(clean.num_classes, clean.shape[0], wanted, self.tries, seed, context)


def expected(num_classes: int) -> float:
    """About how many processes are tried for so many classes, with the published responses."""
    return TRIED * max(1.0, num_classes / 100) ** GROWTH


@cache
def known() -> dict[str, list[list[list[float]]]]:
    """The published coefficients by the number of classes: by class and channel, those of a window in raster
    order but for the last, which is 0."""
    found = OBJECT.read(PUBLISHED.read_bytes())
    return {number: values for number, values in found.items() if number.isdecimal()}


def coefficients(
    number: int, channels: int, response: float, tries: int, seed: int, context: CraftContext
) -> Tensor:
    """Coefficients for `number` classes, float64 number,C,3,3. InputError if `tries` draws are too few."""
    gen, accepted = rng(seed, "coefficients"), list[Tensor]()
    for batch in range(math.ceil(tries / BATCH)):
        size = min(BATCH, tries - batch * BATCH)
        drawn = torch.randn((size, channels, 9), generator=gen, dtype=torch.float64)
        drawn[:, :, 8] = 0
        drawn = (drawn / drawn.sum(2, keepdim=True)).view(size, channels, 3, 3)
        stable, made = _stable(drawn, gen)
        for i, signal in zip(stable.tolist(), made, strict=True):
            if not accepted or float(responses(torch.stack(accepted), signal).min()) >= response:
                accepted.append(drawn[i])
                context.report({"classes": len(accepted), "tried": batch * BATCH + i + 1})
            if len(accepted) == number:
                return torch.stack(accepted)
    raise InputError(
        f"ar: {tries:,} processes gave coefficients for {len(accepted)} of {number} classes: write a smaller "
        f"response than {response:g}, or more tries"
    )


def _stable(drawn: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which processes are stable (int64 n), and a signal of each, of L2 norm 1. They are tried channel by
    channel, since most fail in the first."""
    alive, parts, size = torch.arange(len(drawn)), list[Tensor](), torch.zeros(len(drawn)).double()
    for _ in range(RUNS):
        parts, size = [], torch.zeros(len(alive), dtype=torch.float64)
        for k in range(drawn.shape[1]):
            start = torch.randn((len(alive), 1, SIDE, SIDE), generator=gen, dtype=torch.float64)
            made = signals(drawn[alive, k : k + 1], start)[:, 0, CROP:, CROP:]
            size = size + made.square().sum((1, 2))
            small = size <= LARGEST**2  # a size that is not a number is not small
            alive, size = alive[small], size[small]
            parts = [part[small] for part in [*parts, made]]
    return alive, torch.stack(parts, 1) / size.sqrt().clamp(min=1e-300).view(-1, 1, 1, 1)


def responses(processes: Tensor, signal: Tensor) -> Tensor:
    """How strongly the filter of each of the processes K,C,3,3 responds to a signal C,H,W: K numbers, 0 for
    the process that made it."""
    filters = processes.clone()
    filters[:, :, 2, 2] = -1
    return F.conv2d(signal[None], filters).relu().sum((0, 2, 3))
