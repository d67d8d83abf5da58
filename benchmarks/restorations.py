"""Seconds of defenses that train a network to restore the images, against loops as in released code.

    python benchmarks/restorations.py [--device cuda] [--quick]

`d_vae` restores 500 images of 3x32x32 (width 16, code of 64, 2 epochs of each network); the released loop converts
every image by itself and reads the loss of every step. `avatar` and `eclipse` denoise 100 images by 10 steps with a
U-Net of width 16; the released loops, a reverse SDE by Euler's method and improved-diffusion's, look up coefficients for
every image of a batch. Both sides have the same network and one thread, and are timed in turn. Results are added to
benchmarks/results/restorations.jsonl, unless the run is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import record
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from trainers.defenses.d_vae import DVae
from trainers.diffusion import Diffusion
from trainers.gpu_profile import random_images
from trainers.images import Images
from trainers.restoration import RestorationContext
from trainers.unet import build as build_unet
from trainers.vae import DisentanglingVae, vae_loss
from trainers.vae import build as build_vae

SHAPE, CLASSES, WIDTH, STEPS = (3, 32, 32), 10, 16, 10
Row = tuple[str, Callable[[], object], Callable[[], object]]  # kind, ours, theirs


def d_vae(device: torch.device, *, number: int, epochs: int) -> Row:
    images = random_images(number, SHAPE, CLASSES)
    defense = DVae(width=WIDTH, latent=64, vae_epochs=epochs, vae_batch_size=64)
    context = RestorationContext(device)

    def released() -> Images:
        first = with_one_network(defense, images, device, defense.rates[0], last=False)
        return with_one_network(defense, first, device, defense.rates[1], last=True)

    return "d_vae", lambda: defense.restore(images, None, context), released


def with_one_network(
    defense: DVae, images: Images, device: torch.device, rate: float, *, last: bool
) -> Images:
    """Trains a network, and subtracts the perturbations that it finds; the `last` one makes images of those."""
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images.x]
    pairs = [*zip(pictures, images.y.tolist(), strict=True)]

    def batch(some: list[tuple[Image.Image, int]]) -> tuple[Tensor, Tensor]:
        return torch.stack([to_tensor(x) for x, _ in some]), torch.tensor([y for _, y in some])

    net = build_vae(SHAPE, CLASSES, width=defense.width, latent=defense.latent, seed=0).to(device)
    adam = torch.optim.Adam(net.parameters(), lr=defense.vae_lr)
    gen = torch.Generator(device).manual_seed(0)
    for _ in range(defense.vae_epochs):
        for x, y in DataLoader(pairs, defense.vae_batch_size, shuffle=True, drop_last=True, collate_fn=batch):
            stepped(net, adam, defense, x.to(device), y.to(device), rate, gen)
    net.eval()
    done = []
    with torch.no_grad():
        for x, y in DataLoader(pairs, defense.vae_batch_size, collate_fn=batch):
            x, y = x.to(device), y.to(device)
            x = (x - net(x, y, gen).perturbation).clamp(0, 1)
            x = net(x, y, gen).image if last else x
            done.append(x.clamp(0, 1).mul(255).round().byte().cpu())
    return Images(torch.cat(done), images.y, CLASSES)


def stepped(
    net: DisentanglingVae,
    adam: torch.optim.Adam,
    defense: DVae,
    x: Tensor,
    y: Tensor,
    rate: float,
    gen: torch.Generator,
) -> float:
    loss = vae_loss(net(x, y, gen), x, rate=rate, weight=defense.weight, limit=None)
    adam.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), defense.grad_norm)
    adam.step()
    return loss.item()


def looked_up(values: np.ndarray, t: Tensor, x: Tensor) -> Tensor:
    """A coefficient for every image, repeated for all its pixels."""
    found = torch.from_numpy(values).to(x.device)[t].float()
    return found[:, None, None, None].expand(x.shape)


class Released:
    """Denoising as released code does it, with coefficients in numpy."""

    def __init__(self, diffusion: Diffusion, net: nn.Module, device: torch.device) -> None:
        self.net, self.device, self.steps = net, device, len(diffusion)
        self.left, self.added = diffusion.left.numpy(), diffusion.added.numpy()

    def noised(self, x: Tensor) -> Tensor:
        left = self.left[STEPS - 1]
        return x * float(left) ** 0.5 + torch.randn_like(x) * float(1 - left) ** 0.5

    def times(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        t = torch.tensor([i] * len(x), device=self.device)
        return t, t.float() * (1000 / self.steps)

    @torch.no_grad()
    def sampled(self, x: Tensor) -> Tensor:
        """By the posterior of the image that the network predicts, as improved-diffusion."""
        x = self.noised(x)
        before = np.append(1.0, self.left[:-1])
        of_image = self.added * np.sqrt(before) / (1 - self.left)
        of_x = (1 - before) * np.sqrt(1 - self.added) / (1 - self.left)
        for i in reversed(range(STEPS)):
            t, time = self.times(x, i)
            noise = self.net(x, time)
            image = looked_up(np.sqrt(1 / self.left), t, x) * x
            image = (image - looked_up(np.sqrt(1 / self.left - 1), t, x) * noise).clamp(-1, 1)
            mean = looked_up(of_image, t, x) * image + looked_up(of_x, t, x) * x
            spread = torch.exp(0.5 * looked_up(np.log(self.added), t, x))
            x = mean + (t != 0).float()[:, None, None, None] * spread * torch.randn_like(x)
        return x

    @torch.no_grad()
    def solved(self, x: Tensor) -> Tensor:
        """By Euler's steps of the reverse SDE, on flat images."""
        x = self.noised(x).flatten(1)
        for i in reversed(range(STEPS)):
            t, time = self.times(x, i)
            beta = looked_up(self.added, t, x[..., None, None])[..., 0, 0]
            noise = self.net(x.view(-1, *SHAPE), time).flatten(1)
            score = -noise / looked_up(np.sqrt(1 - self.left), t, x[..., None, None])[..., 0, 0]
            x = x + 0.5 * beta * x + beta * score + beta.sqrt() * torch.randn_like(x)
        return x.view(-1, *SHAPE)


def denoising(device: torch.device, number: int) -> Iterator[Row]:
    net = build_unet(SHAPE, width=WIDTH, seed=0).to(device).eval()
    x = 2 * torch.rand((number, *SHAPE), device=device) - 1
    gen = torch.Generator(device).manual_seed(0)
    linear, cosine = Diffusion.of("linear", 1000), Diffusion.of("cosine", 4000)
    euler, posterior = Released(linear, net, device), Released(cosine, net, device)
    yield "avatar", lambda: linear.denoised(net, x, STEPS, gen), lambda: euler.solved(x)
    yield "eclipse", lambda: cosine.denoised(net, x, STEPS, gen), lambda: posterior.sampled(x)


def main() -> None:
    """Time each restoration, and print and record the seconds."""
    wanted = record.parser(__doc__, data=False).parse_args()
    torch.set_num_threads(1)
    device, quick = torch.device(wanted.device), wanted.quick
    size = {"number": 100, "epochs": 1} if quick else {"number": 500, "epochs": 2}
    for kind, ours, theirs in [d_vae(device, **size), *denoising(device, 10 if quick else 100)]:
        a, b = record.interleave(ours, theirs, 1 if quick else 5, device=device)
        sides = [record.spread(side) for side in (a, b)]
        ratio = round(sides[1]["median"] / sides[0]["median"], 2)
        row = {"defense": kind, "seconds": sides[0], "loop": sides[1], "ratio": ratio}
        print(row, flush=True)
        if not quick:
            record.append("restorations", row)


if __name__ == "__main__":
    main()
