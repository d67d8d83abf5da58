"""The encoder attack of PhotoGuard (Salman, Khaddaj, Leclerc, Ilyas, Madry; ICML 2023): noise that moves the
code of an image in an autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.autoencoder import Autoencoder

LAST = 0.01  # the length of the last step, as a share of the first


def displaced(
    autoencoder: Autoencoder,
    x: Tensor,
    target: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    gen: torch.Generator,
) -> Tensor:
    """Float images N,C,H,W in [0, 1] within ±`eps` of `x` whose codes are near `target` (N,L or L): signed
    descent of the distance, from a uniform start, with steps that shrink evenly to a hundredth. `gen` is on
    the device of `x`."""
    noise = (2 * torch.rand(x.shape, generator=gen, device=x.device) - 1) * eps
    z = (x + noise).clamp(0, 1)
    for i in range(steps):
        size = step * (1 - (1 - LAST) * i / steps)
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            # the square has the direction of the distance, and a gradient where that is 0
            (grad,) = torch.autograd.grad((autoencoder.code(z) - target).square().sum(), z)
        z = (x + (z.detach() - size * grad.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return z
