"""A small convolutional decoder, and its training: what features say about images, made visible."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.loop import DivergenceError, generator, seeded
from trainers.meta import Shape
from trainers.recipe import one_thread

STREAM = 91  # first part of every random stream here, after the seed


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
    total = torch.zeros((), device=device)
    with one_thread(device), torch.enable_grad():
        for epoch in range(epochs):
            total.zero_()
            gen = generator(torch.device("cpu"), seed, STREAM, epoch)
            for rows in torch.randperm(len(vectors), generator=gen).to(device).split(batch_size):
                if len(rows) == 1:  # which BatchNorm cannot be trained on
                    continue
                error = F.mse_loss(decoder(vectors[rows]), images[rows])
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
                total += error.detach() * len(rows) / len(vectors)
    if not math.isfinite(found := total.item()):
        raise DivergenceError("the decoder diverged; try a smaller decoder_lr")
    return decoder.eval(), found
