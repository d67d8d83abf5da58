"""A variational autoencoder with a second decoder, for the perturbation (D-VAE: Yu, Wang, Xia, Yang, Lu, Kot;
ICML 2024, in its released form)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.architectures.resnet import BasicBlock, conv3x3
from trainers.loop import seeded
from trainers.meta import Shape


class Parts(NamedTuple):
    """What the network makes of a batch: images without the perturbation and the perturbation, both float
    N,C,H,W; mean and log variance of the code, N,L,H/2,W/2."""

    image: Tensor
    perturbation: Tensor
    mean: Tensor
    log_variance: Tensor


class DisentanglingVae(nn.Module):
    """The first layers of a ResNet-18 encode, up to its first halving; one decoder makes the image, the other
    one the perturbation, from the code and an embedding of the class at each position."""

    def __init__(self, shape: Shape, num_classes: int, *, width: int, latent: int) -> None:
        super().__init__()
        channels, height, rows = shape
        self.stem = nn.Sequential(
            conv3x3(channels, width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            BasicBlock(width, width, stride=1),
            BasicBlock(width, width, stride=1),
            BasicBlock(width, 2 * width, stride=2),
        )
        self.code = nn.Conv2d(2 * width, 2 * latent, 1)
        self.decode = nn.Conv2d(latent, 2 * width, 1)
        self.image, self.perturbation = decoder(width, channels), decoder(width, channels)
        self.embedding = nn.Embedding(num_classes, 2 * width * (height // 2) * (rows // 2))

    def forward(self, x: Tensor, labels: Tensor | None = None, gen: torch.Generator | None = None) -> Parts:
        """`labels` int64 N (default: 0); `gen` draws the code, and without it the code is its mean."""
        mean, log_variance = self.code(self.stem(x)).chunk(2, 1)
        code = mean if gen is None else mean + (0.5 * log_variance).exp() * normal(mean, gen)
        z = self.decode(code)
        labels = torch.zeros(len(x), dtype=torch.int64, device=x.device) if labels is None else labels
        perturbation = self.perturbation(z + self.embedding(labels).view_as(z))
        return Parts(self.image(z).sigmoid(), perturbation, mean, log_variance)


def decoder(width: int, channels: int) -> nn.Sequential:
    """From 2·`width` channels at half the size to `channels`."""
    return nn.Sequential(
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ConvTranspose2d(width, width, 3, padding=1),
        nn.InstanceNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, max(1, width // 2), 3, padding=1),
        nn.InstanceNorm2d(max(1, width // 2)),
        nn.ReLU(),
        nn.ConvTranspose2d(max(1, width // 2), channels, 3, padding=1),
    )


def vae_loss(parts: Parts, x: Tensor, *, rate: float, weight: float, limit: float | None) -> Tensor:
    """The rate-constrained loss: the error of the image, that of image and perturbation together, and
    `weight` times the rate, of which nothing below `rate` counts; with a `limit`, also the mean square of the
    perturbation, of which nothing below it counts."""
    both = (parts.image + parts.perturbation).clamp(0, 1)
    loss = F.mse_loss(parts.image, x) + F.mse_loss(both, x) + weight * bits(parts).clamp(min=rate)
    if limit is not None:
        loss = loss + parts.perturbation.square().mean().clamp(min=limit)
    return loss


def bits(parts: Parts) -> Tensor:
    """The rate: the divergence of the code from a standard normal one, in nats, summed over its channels and
    averaged over positions and images."""
    mean, log_variance = parts.mean, parts.log_variance
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def normal(like: Tensor, gen: torch.Generator) -> Tensor:
    """Standard normal numbers of the same shape and type."""
    return torch.randn(like.shape, generator=gen, device=like.device, dtype=like.dtype)


def build(shape: Shape, num_classes: int, *, width: int, latent: int, seed: int) -> DisentanglingVae:
    """The network, its weights drawn from `seed`."""
    with seeded(torch.device("cpu"), seed):
        return DisentanglingVae(shape, num_classes, width=width, latent=latent)
