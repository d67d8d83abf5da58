"""Protection against editing, PhotoGuard (Salman, Khaddaj, Leclerc, Ilyas, Madry; ICML 2023): noise that
moves the code of an image in an autoencoder."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from poisons.base import CraftContext, Poison
from poisons.perturbations.delta import Delta, NoiseEps, whole_levels
from poisons.rng import rng
from trainers.autoencoder import Autoencoder, autoencoder_work, encoder_flops, fit_autoencoder
from trainers.encoder_attack import displaced
from trainers.families import Passes
from trainers.feed import place
from trainers.flops import Shape, Work, over
from trainers.images import Extent, Images, to_float
from trainers.loop import generator
from trainers.recipe import one_thread, repeatable
from trainers.spec import InputError, Step

STREAM = 103  # first part of every random stream here, after the seed


class PhotoGuard(Poison, kind="photoguard"):
    """Moves the code of every image in an autoencoder to zero, or to that of a grey image, so that a
    generative model sees something else: the encoder attack, on a small autoencoder that is trained on the
    images.

    The published attack is on the autoencoder of Stable Diffusion, with images in [-1, 1], where its budget
    of 0.06 is 0.03 of the pixel range. It is meant against editing, not against training.
    """

    wants_gpu: ClassVar[bool] = True
    needs: ClassVar[str] = "an autoencoder trained meanwhile"
    bound: ClassVar[str] = "Linf eps"
    published: ClassVar[str] = "ICML 2023"
    smoke: ClassVar[dict[str, Any]] = {"vae_epochs": 1, "vae_width": 4, "steps": 2}
    eps: NoiseEps = Fraction(3, 100)
    """Largest change of a value, in units of the pixel range; published 0.03, or 0.06 of [-1, 1]."""
    step: Step | None = None
    """Length of the first step, in units of the pixel range; null is eps/3. It shrinks to a hundredth."""
    steps: PositiveInt = 200
    """Steps on each image; published up to 1,000."""
    towards: Literal["zero", "grey"] = "zero"
    """The code aimed at: zero, or that of a grey image."""
    vae_epochs: PositiveInt = 30
    """Epochs of the autoencoder's training."""
    vae_width: PositiveInt = 16
    """Channels of the autoencoder at half the size of the images."""
    vae_code: PositiveInt = 32
    """Numbers in a code."""
    vae_lr: PositiveFloat = 1e-3
    """Learning rate of the autoencoder, with Adam."""
    vae_beta: NonNegativeFloat = 1e-3
    """Weight of the divergence of a number of the code from a standard normal one."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images of one step, of the autoencoder and of the noise."""

    @property
    def transfers(self) -> bool:
        return False

    def check(self, clean: Extent) -> None:
        if clean.images < 2:
            raise InputError("photoguard: an autoencoder learns from two images or more")

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        encoder = encoder_flops(shape, self.vae_code, width=self.vae_width)
        training = autoencoder_work(
            images,
            shape,
            size=self.vae_code,
            width=self.vae_width,
            epochs=self.vae_epochs,
            batch_size=self.batch_size,
        )
        descent = Passes(forward=self.steps + 2, inputs=self.steps)
        return training + over(images, self.batch_size, descent, encoder)

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """DivergenceError if the autoencoder's error is not finite."""
        self.check(clean.extent)
        device, eps = context.device, float(self.eps)
        step = eps / 3 if self.step is None else float(self.step)
        found = self._autoencoder(clean, seed, context)
        shift, parts = torch.zeros((), dtype=torch.float64, device=device), list[Tensor]()
        with repeatable(), one_thread(device):
            target = self._target(found, clean, device)
            for i, some in enumerate(place(clean, device).chunks(self.batch_size)):
                x = to_float(some.x.to(device))
                gen = generator(device, seed, STREAM, i)
                z = displaced(found, x, target, eps=eps, step=step, steps=self.steps, gen=gen)
                shift += (found.code(z) - found.code(x)).norm(dim=1).double().sum()
                parts.append(whole_levels((z - x).contiguous(), "signed", self.eps))
                context.report({"images": sum(map(len, parts))})
        facts = {"vae_error": round(found.error, 6), "displacement": round(shift.item() / len(clean), 4)}
        return Delta(torch.cat(parts), "image", facts)

    def _autoencoder(self, clean: Images, seed: int, context: CraftContext) -> Autoencoder:
        return fit_autoencoder(
            clean,
            context.device,
            size=self.vae_code,
            width=self.vae_width,
            epochs=self.vae_epochs,
            batch_size=self.batch_size,
            lr=self.vae_lr,
            beta=self.vae_beta,
            seed=rng(seed, "photoguard").initial_seed(),
            report=context.report,
        )

    def _target(self, found: Autoencoder, clean: Images, device: torch.device) -> Tensor:
        """The code aimed at, L."""
        grey = found.code(torch.full((1, *clean.shape), 0.5, device=device))[0]
        return grey if self.towards == "grey" else torch.zeros_like(grey)
