"""Denoising diffusion (Ho, Jain, Abbeel; NeurIPS 2020): noise is added in many small steps, and a network
that predicts it takes it away again. Pixels are in [-1, 1] here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Predict = Callable[[Tensor, Tensor], Tensor]
Curve = Literal["linear", "cosine"]
STEPS = 1000  # of which the network's times are numbered, however many a schedule has


@dataclass(frozen=True)
class Diffusion:
    """A schedule: `left[t]`, the share of an image's variance that is left after t + 1 steps (paper: ᾱ), and
    `added[t]`, the variance of the noise that step t + 1 adds (paper: β); float64."""

    left: Tensor
    added: Tensor
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, curve: Curve, steps: int) -> Diffusion:
        """`linear`: from 0.0001 to 0.02 in 1,000 steps, scaled for another number; that of VP-SDE. `cosine`:
        Nichol and Dhariwal, ICML 2021, eq. 17."""
        if curve == "linear":
            scale = STEPS / steps
            added = torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64).clamp(max=0.999)
        else:
            at = torch.arange(steps + 1, dtype=torch.float64) / steps
            curved = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
            added = (1 - curved[1:] / curved[:-1]).clamp(max=0.999)
        return cls((1 - added).cumprod(0), added)

    def __len__(self) -> int:
        return len(self.added)

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x` N,C,H,W after t + 1 steps (int64 N), with standard normal `noise` (paper: eq. 4)."""
        if x.device not in self._placed:  # a copy at each step would make the host wait for a GPU
            self._placed[x.device] = self.left.to(x.device)
        left = self._placed[x.device][t].to(x).view(-1, 1, 1, 1)
        return left.sqrt() * x + (1 - left).sqrt() * noise

    def loss(self, predict: Predict, x: Tensor, gen: torch.Generator) -> Tensor:
        """The mean square error of the predicted noise at times drawn at random (paper: L_simple, eq. 14)."""
        t = torch.randint(len(self), (len(x),), generator=gen, device=x.device)
        noise = torch.randn(x.shape, generator=gen, device=x.device)
        return F.mse_loss(predict(self.noised(x, noise, t), self._times(t)), noise)

    def posterior(self, x: Tensor, image: Tensor, t: int) -> tuple[Tensor, float]:
        """The mean and the variance of the images before step t + 1 that made `x`, given the `image` without
        noise (paper: eq. 6 and 7)."""
        left, added = self.left[t].item(), self.added[t].item()
        before = self.left[t - 1].item() if t else 1.0
        kept = math.sqrt(1 - added) * (1 - before) / (1 - left)
        mean = math.sqrt(before) * added / (1 - left) * image + kept * x
        return mean, added * (1 - before) / (1 - left)

    @torch.no_grad()
    def denoised(self, predict: Predict, x: Tensor, steps: int, gen: torch.Generator) -> Tensor:
        """`x` after `steps` steps of noise and as many back (paper: algorithm 2), in [-1, 1]; 0 is the
        identity."""
        if not steps:
            return x
        t = torch.full((len(x),), steps - 1, dtype=torch.int64, device=x.device)
        x = self.noised(x, torch.randn(x.shape, generator=gen, device=x.device), t)
        for i in reversed(range(steps)):
            noise, left = predict(x, self._times(t.fill_(i))), self.left[i].item()
            image = ((x - math.sqrt(1 - left) * noise) / math.sqrt(left)).clamp(-1, 1)
            x, variance = self.posterior(x, image, i)
            if i:
                x = x + math.sqrt(variance) * torch.randn(x.shape, generator=gen, device=x.device)
        return x

    def _times(self, t: Tensor) -> Tensor:
        return t.float() * (STEPS / len(self))
