"""Whether JPEG undoes a protection against editing (after Sandoval-Segura, Geiping, Goldstein; 2023, arXiv
2304.02234), on a small autoencoder in place of a diffusion model's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from trainers.autoencoder import Autoencoder, autoencoder_work, encoder_flops, fit_autoencoder
from trainers.encoder_attack import displaced
from trainers.families import Passes
from trainers.flops import Work, over
from trainers.images import Extent, nearest_levels, to_float
from trainers.jpeg import jpeg
from trainers.loop import generator
from trainers.pictured import pictured, psnr
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ImageMaps, ProbeView
from trainers.recipe import TrainSpec
from trainers.spec import InputError, LevelEps

STREAM = 107  # first part of every random stream here, after the seed
BATCH, LR, BETA = 128, 1e-3, 1e-3  # of the autoencoder's training


class EncoderAttack(Probe, kind="encoder_attack"):
    """Trains a small autoencoder on the training images, moves the codes of test images to zero within a
    budget, and measures what is left of that displacement after JPEG.

    Metrics: `displacement`, the mean distance of the moved codes; as shares of it, `left_<quality>`, the
    distance after JPEG of that quality, beside `control_<quality>`, that of JPEG alone, and `random`, that of
    random signs of the same size. JPEG undoes a protection as far as `left` falls towards `control`.
    `decoded_psnr`, `attacked_psnr` and `restored_psnr` compare the decoded images with the originals in dB:
    without the attack, under it, and under it after JPEG of the middle quality.

    "JPEG q leaves x % of the displacement on this encoder" is all that it says: the published effect is that
    on Stable Diffusion, and small autoencoders show a part of it. The trial's network is not used. Costs
    `vae_epochs` epochs of a small network, and `steps` steps of `limit` images.
    """

    eps: LevelEps = Fraction(3, 100)
    """Largest change of a value, in units of the pixel range; published 0.03, or 0.06 of [-1, 1]."""
    steps: PositiveInt = 200
    """Steps on each image, of eps/3 at first and a hundredth of that at last."""
    limit: PositiveInt = 100
    """Size of the class-balanced subset of the test images."""
    qualities: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (95, 85, 75, 65, 50, 30)
    """JPEG qualities, as in Pillow."""
    vae_epochs: PositiveInt = 60
    """Epochs of the autoencoder's training."""
    vae_width: PositiveInt = 16
    """Channels of the autoencoder at half the size of the images."""
    vae_code: PositiveInt = 32
    """Numbers in a code."""
    pictured: PositiveInt = 3
    """Test images that are stored for pictures."""
    smoke: ClassVar[dict[str, Any]] = {"vae_epochs": 1, "vae_width": 4, "steps": 2, "qualities": [75]}

    @property
    def metrics(self) -> tuple[str, ...]:
        shares = (f"{name}_{quality}" for quality in self.qualities for name in ("left", "control"))
        return ("displacement", "random", *shares, "decoded_psnr", "attacked_psnr", "restored_psnr")

    def view(self, sets: Sequence[str]) -> ProbeView:
        units = {name: "dB" if name.endswith("psnr") else PERCENT for name in self.metrics[1:]}
        picture = ImageMaps(
            kind="image_maps",
            shows="Images, the same under attack, and what the autoencoder decodes of each, with the "
            "difference from the original.",
            images="images",
        )
        return ProbeView(
            says="What JPEG leaves of a displacement in the code of a small autoencoder.",
            units=units,
            picture=picture,
        )

    def work(self, examined: Examined) -> Work:
        shape, images = examined.train.shape, examined.test.at_most(self.limit)
        encoder = encoder_flops(shape, self.vae_code, width=self.vae_width)
        training = autoencoder_work(
            examined.train.images,
            shape,
            size=self.vae_code,
            width=self.vae_width,
            epochs=self.vae_epochs,
            batch_size=BATCH,
        )
        return training + over(images, images, Passes(forward=self.steps, inputs=self.steps), encoder)

    def check_extents(self, spec: TrainSpec, train: Extent, test: Extent, sets: Mapping[str, Extent]) -> None:
        if train.shape[0] not in (1, 3):
            raise InputError(
                f"the probe {self.kind!r} compresses images as JPEG, which are grey or RGB; these have "
                f"{train.shape[0]} channels"
            )
        if not self.qualities:
            raise InputError(f"the probe {self.kind!r} needs a JPEG quality, such as qualities: [75]")
        if len(set(self.qualities)) < len(self.qualities):
            raise InputError(f"the probe {self.kind!r} has one quality twice: {list(self.qualities)}")
        if train.images < 2:
            raise InputError(f"the autoencoder of the probe {self.kind!r} learns from two images or more")

    def run(self, subject: Subject) -> Finding:
        device, images = subject.device, subject.test.subset(self.limit)
        with torch.autocast(device.type, enabled=False):
            found = self._autoencoder(subject)
            x = to_float(images.x.to(device)).contiguous()
            gen = generator(device, subject.seed, STREAM)
            signs = torch.randint(2, x.shape, generator=gen, device=device) * 2 - 1
            eps = math.floor(self.eps * 255) / 255  # whole levels stay in the budget
            attacked = displaced(
                found,
                x,
                torch.zeros(self.vae_code, device=device),
                eps=eps,
                step=eps / 3,
                steps=self.steps,
                gen=gen,
            )
            moved = nearest_levels(attacked)
            metrics = self._shares(found, nearest_levels(x), moved, nearest_levels(x + eps * signs))
            middle = self.qualities[len(self.qualities) // 2]
            restored = to_float(jpeg(moved, middle, "4:2:0"))
            codes = {"decoded_psnr": x, "attacked_psnr": to_float(moved), "restored_psnr": restored}
            decoded = {name: found.decoder(found.code(one)) for name, one in codes.items()}
            metrics |= {name: psnr(one, x) for name, one in decoded.items()}
        shown = (
            ("an image", x),
            ("decoded", decoded["decoded_psnr"]),
            ("attacked", to_float(moved)),
            ("decoded under attack", decoded["attacked_psnr"]),
        )
        pictures = [
            pictured(f"{int(images.y[i])}, {words}", one[i], x[i])
            for i in range(min(self.pictured, len(x)))
            for words, one in shown
        ]
        return Finding(metrics, fields={"images": pictures})

    def _autoencoder(self, subject: Subject) -> Autoencoder:
        return fit_autoencoder(
            subject.train,
            subject.device,
            size=self.vae_code,
            width=self.vae_width,
            epochs=self.vae_epochs,
            batch_size=BATCH,
            lr=LR,
            beta=BETA,
            seed=subject.seed,
        )

    @torch.no_grad()
    def _shares(self, found: Autoencoder, x: Tensor, moved: Tensor, random: Tensor) -> dict[str, float]:
        """How far the codes of uint8 images are from those of `x`: under attack, and as shares of that."""
        own = found.code(to_float(x))

        def apart(images: Tensor) -> float:
            return (found.code(to_float(images)) - own).norm(dim=1).double().mean().item()

        whole = apart(moved)
        metrics = {"displacement": whole, "random": apart(random) / max(whole, 1e-12)}
        for quality in self.qualities:
            for name, images in (("left", moved), ("control", x)):
                after = jpeg(images, quality, "4:2:0")
                metrics[f"{name}_{quality}"] = apart(after) / max(whole, 1e-12)
        return metrics
