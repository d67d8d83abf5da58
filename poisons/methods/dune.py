"""Dual-branch noise, DUNE (Wang et al., ICML 2026, arXiv 2605.01718): adversarial noise against an ensemble,
and one shift of the colours per class, both towards another class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from poisons.base import CraftContext, Tensors
from poisons.methods.ensemble import EnsembleNoise
from poisons.methods.fixed_network import SMOKE
from poisons.methods.particles import Swarm
from poisons.perturbations.delta import Delta
from poisons.rng import rng
from poisons.surrogate import Surrogate
from trainers.families import Passes
from trainers.feed import feed
from trainers.flops import Shape, Work, network_flops, over
from trainers.images import Extent, Images
from trainers.numerical_platform import arithmetic_mark
from trainers.recipe import one_thread, repeatable
from trainers.spec import InputError, Step

WINDOW = 7  # of SSIM: a square without weights
K1, K2 = 0.01, 0.03  # of SSIM
START, SPEED = 0.1, 0.01  # largest initial shift and velocity of a particle
NOTE = "a reconstruction: the published search also limits LPIPS, which needs a network trained elsewhere"


class Dune(EnsembleNoise, kind="dune", version=2):
    """Noise towards another class within eps, and a shift of the colours of each class that may exceed it:
    found by a particle swarm, as visible as the limits on PSNR and SSIM allow.

    A reconstruction: the published search also limits LPIPS, which needs a network trained elsewhere. And the
    released search loses the best shift when the swarm moves on; ours keeps it.
    """

    bound: ClassVar[str] = "Linf eps, and a shift of the colours"
    published: ClassVar[str] = "ICML 2026; a reconstruction"
    smoke: ClassVar[dict[str, Any]] = SMOKE | {
        "checkpoints": 2,
        "augmentations": [],
        "shift_images": 4,
        "particles": 2,
        "rounds": 2,
    }
    checkpoints: PositiveInt = 5
    """Evenly spaced epochs of the surrogate's training whose networks are used."""
    step: Step | None = None
    """Length of a step, above 0, in units of the pixel range; null is eps/16."""
    offset: PositiveInt = 3
    """How many classes after its own one an image aims."""
    shift_images: PositiveInt = 1000
    """Images of a class on which its shift is judged, at most."""
    particles: PositiveInt = 10
    """Shifts that are tried at a time."""
    rounds: PositiveInt = 10
    """Times that the particles move."""
    min_psnr: PositiveFloat = 20.0
    """PSNR in dB below which a shift is penalised by what is missing."""
    min_ssim: Annotated[float, Field(gt=0, le=1)] = 0.8
    """SSIM below which a shift is penalised by what is missing."""

    usual_step: ClassVar[Fraction] = Fraction(1, 16)

    def check(self, clean: Extent) -> None:
        super().check(clean)
        if min(clean.shape[1:]) < WINDOW:
            raise InputError(f"dune: SSIM needs images of {WINDOW} pixels a side, found {clean.shape}")

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        network = network_flops(self.surrogate.architecture, shape=shape, num_classes=num_classes)
        judged = min(images, self.shift_images * num_classes)
        tries = self.particles * self.rounds * self.networks
        search = over(judged, self.batch_size, Passes(forward=1), network) * tries
        return super().work(images, shape=shape, num_classes=num_classes) + search

    def objective(self, out: Tensor, labels: Tensor, aim: Tensor | None) -> Tensor:
        return F.cross_entropy(out, self.aim(labels, out.shape[1]), reduction="sum")

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """InputError if the surrogate learnt nothing; what its training raises."""
        self.check(clean.extent)
        self.check_images(clean)
        surrogates = self.surrogates(clean, context)
        shifts = self._shifts(surrogates, clean, seed, context)
        noise = self.noise(surrogates, clean, seed, context)
        levels = (shifts * 255).round().to(torch.int16)
        moved = noise.delta.to(torch.int16) + levels[clean.y.cpu()][:, :, None, None]
        moved = moved.clamp(-255, 255)  # more changes no image
        return replace(noise, delta=moved, facts_={"note": NOTE, **noise.facts_, "shifts": levels.tolist()})

    def _shifts(self, surrogates: Surrogate, clean: Images, seed: int, context: CraftContext) -> Tensor:
        """The shift K,C of each class, in units of the pixel range. Each is kept: a search takes long."""
        shifts = torch.zeros(clean.num_classes, clean.shape[0])
        with repeatable(), one_thread(context.device):
            for label in range(clean.num_classes):
                rows = (clean.y == label).nonzero().squeeze(1)[: self.shift_images]
                if not len(rows):
                    continue
                judge = Judge(self, surrogates.models, clean.take(rows), context.device)
                search = partial(self._shift, judge, rng(seed, f"dune {label}"))
                name = f"dune-{self.key}-{seed}-{label}-{arithmetic_mark(context.device)}"
                *shift, objective = context.cache(name, search)["best"].tolist()
                shifts[label] = torch.tensor(shift)
                context.report({"class": label, "objective": round(objective, 6)})
        return shifts

    def _shift(self, judge: Judge, gen: torch.Generator) -> Tensors:
        """The best shift of one class, and its objective: C+1."""
        swarm = Swarm.begin(self.particles, judge.images.shape[0], gen, START, SPEED)
        for _ in range(self.rounds):
            swarm = swarm.judged([judge(shift) for shift in swarm.positions]).moved()
        return {"best": torch.cat([swarm.best, swarm.best.new_tensor([swarm.value])])}


@dataclass(frozen=True)
class Judge:
    """How bad a shift of the colours of some images of one class is."""

    poison: Dune
    models: tuple[nn.Module, ...]
    images: Images
    device: torch.device

    @torch.no_grad()
    def __call__(self, shift: Tensor) -> float:
        """The mean loss of the other class over images and networks, plus the mean penalty of what is
        visible."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for x, labels in feed(self.images, self.poison.batch_size, self.device):
            moved = (x + shift.to(x)[:, None, None]).clamp(0, 1)
            seen = moved.contiguous(memory_format=torch.channels_last)
            for model in self.models:
                total += self.poison.objective(model(seen).float(), labels, None) / len(self.models)
            missing = (self.poison.min_psnr - psnr(x, moved)).clamp(min=0)
            missing += (self.poison.min_ssim - ssim(x, moved)).clamp(min=0)
            total += missing.sum()
        return total.item() / len(self.images)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """The PSNR in dB of each pair of images N,C,H,W in [0, 1]; infinite for equal ones."""
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """The structural similarity (Wang et al. 2004) of pairs of images N,C,H,W in [0, 1]: in square windows
    within the image, with sample covariances, as scikit-image computes it by default."""
    mx, my = F.avg_pool2d(x, WINDOW, 1), F.avg_pool2d(y, WINDOW, 1)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    vx, vy, vxy = (
        sample * (F.avg_pool2d(a * b, WINDOW, 1) - ma * mb)
        for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    above = (2 * mx * my + K1**2) * (2 * vxy + K2**2)
    below = (mx.square() + my.square() + K1**2) * (vx + vy + K2**2)
    return (above / below).mean((1, 2, 3))
