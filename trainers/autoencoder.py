"""Small convolutional networks between images and vectors: a decoder of given vectors, and a variational
autoencoder (Kingma, Welling; ICLR 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.families import Passes
from trainers.feed import feed, place
from trainers.flops import Flops, Work, flops_of, over
from trainers.images import Images
from trainers.loop import DivergenceError, generator, seeded
from trainers.meta import META, Shape
from trainers.recipe import one_thread, repeatable

STREAM = 91  # first part of every random stream here, after the seed
STEP = Passes(forward=1, backward=1)


class Decoder(nn.Module):
    """From vectors N,D, which are standardised, to images N,C,H,W in [0, 1]: a linear layer to a quarter of
    the size, and two transposed convolutions."""

    def __init__(self, size: int, shape: Shape, *, width: int) -> None:
        super().__init__()
        channels, self.height, self.rows = shape
        self.small = 2 * width, math.ceil(self.height / 4), math.ceil(self.rows / 4)
        self.begin = nn.Sequential(nn.BatchNorm1d(size), nn.Linear(size, math.prod(self.small)))
        self.layers = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        out = self.layers(self.begin(z).view(len(z), *self.small))
        return out[:, :, : self.height, : self.rows].sigmoid()


class Encoder(nn.Module):
    """From images N,C,H,W in [0, 1] to the mean and the log variance of a code, N,L each: two convolutions
    that halve the size, and a linear layer."""

    def __init__(self, shape: Shape, size: int, *, width: int) -> None:
        super().__init__()
        channels, height, rows = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * math.ceil(height / 4) * math.ceil(rows / 4), 2 * size),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(x - 0.5).chunk(2, 1)
        return mean, log_variance


def used(images: int, batch_size: int) -> int:
    """How many of the images an epoch uses: a last batch of one is left out, on which BatchNorm cannot be
    trained."""
    return images - (images % batch_size == 1)


@dataclass(frozen=True)
class Autoencoder:
    """An encoder and a decoder in eval mode, whose weights require no gradient, and their error on the images
    of the last epoch: the mean squared error in pixels of [0, 1]."""

    encoder: Encoder
    decoder: Decoder
    error: float

    def code(self, x: Tensor) -> Tensor:
        """The mean code N,L of float images."""
        return self.encoder(x)[0]


def encoder_flops(shape: Shape, size: int, *, width: int) -> Flops:
    """Operations of an encoder for one image."""
    with torch.random.fork_rng(devices=[]), META:
        encoder = Encoder(shape, size, width=width)
    return flops_of(encoder, shape, lambda code: torch.cat(code, 1))


def decoder_work(images: int, shape: Shape, *, size: int, width: int, epochs: int, batch_size: int) -> Work:
    """The work of `fit_decoder`."""
    with torch.random.fork_rng(devices=[]), META:
        decoder = Decoder(size, shape, width=width)
    return over(images, batch_size, STEP, flops_of(decoder, (size,))) * epochs


def autoencoder_work(
    images: int, shape: Shape, *, size: int, width: int, epochs: int, batch_size: int
) -> Work:
    """The work of `fit_autoencoder`."""
    encoding = over(images, batch_size, STEP, encoder_flops(shape, size, width=width)) * epochs
    return encoding + decoder_work(
        images, shape, size=size, width=width, epochs=epochs, batch_size=batch_size
    )


def fit_autoencoder(
    images: Images,
    device: torch.device,
    *,
    size: int,
    width: int,
    epochs: int,
    batch_size: int,
    lr: float,
    beta: float,
    seed: int,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> Autoencoder:
    """A variational autoencoder of images with codes of `size` numbers, trained with Adam on the mean squared
    error plus `beta` times the mean divergence of a number of the code. DivergenceError if the error is not
    finite."""
    with seeded(torch.device("cpu"), seed, STREAM):
        encoder = Encoder(images.shape, size, width=width)
        decoder = Decoder(size, images.shape, width=width)
    both = nn.ModuleList([encoder, decoder]).to(device).train()
    optimizer, total = torch.optim.Adam(both.parameters(), lr=lr), torch.zeros((), device=device)
    trained = used(len(images), batch_size)
    with repeatable(), one_thread(device), torch.enable_grad():
        placed = place(images, device)
        for epoch in range(epochs):
            total.zero_()
            gen = generator(torch.device("cpu"), seed, STREAM, epoch)
            draws = generator(device, seed, STREAM, epoch, 1)
            order = torch.randperm(len(images), generator=gen).to(placed.x.device)
            for x, _ in feed(placed, batch_size, device, order):
                if len(x) == 1:
                    continue
                mean, log_variance = encoder(x)
                noise = torch.randn(mean.shape, generator=draws, device=device)
                error = F.mse_loss(decoder(mean + (0.5 * log_variance).exp() * noise), x)
                divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()
                optimizer.zero_grad()
                (error + beta * divergence).backward()
                optimizer.step()
                total += error.detach() * len(x) / trained
            report({"vae_epoch": epoch + 1, "error": round(total.item(), 6)})
    if not math.isfinite(found := total.item()):
        raise DivergenceError("the autoencoder diverged; try a smaller learning rate")
    both.eval().requires_grad_(False)
    return Autoencoder(encoder, decoder, found)


def fit_decoder(
    vectors: Tensor,
    images: Tensor,
    *,
    width: int,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> tuple[Decoder, float]:
    """A decoder in eval mode from float32 `vectors` N,D to float images N,C,H,W on the same device, trained
    with Adam on the mean squared error, and that error in the last epoch. DivergenceError if the error is not
    finite."""
    device, shape = vectors.device, (images.shape[1], images.shape[2], images.shape[3])
    with seeded(torch.device("cpu"), seed, STREAM):
        decoder = Decoder(vectors.shape[1], shape, width=width)
    decoder = decoder.to(device)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=lr)
    total, trained = torch.zeros((), device=device), used(len(vectors), batch_size)
    with one_thread(device), torch.enable_grad():
        for epoch in range(epochs):
            total.zero_()
            gen = generator(torch.device("cpu"), seed, STREAM, epoch)
            for rows in torch.randperm(len(vectors), generator=gen).to(device).split(batch_size):
                if len(rows) == 1:
                    continue
                error = F.mse_loss(decoder(vectors[rows]), images[rows])
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
                total += error.detach() * len(rows) / trained
    if not math.isfinite(found := total.item()):
        raise DivergenceError("the decoder diverged; try a smaller decoder_lr")
    return decoder.eval(), found
