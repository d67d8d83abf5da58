"""Purification by diffusion, AVATAR (Dolatabadi, Erfani, Leckie; SatML 2024)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from trainers.diffusion import Curve, Diffusion
from trainers.families import Passes
from trainers.flops import Flops, Work, flops_of, over
from trainers.generative import Recipe, Stages
from trainers.images import Extent, Images
from trainers.meta import META, Shape
from trainers.restoration import CleanImages, Restoration, RestorationContext, Restored
from trainers.spec import InputError
from trainers.unet import UNet, build

STAGE = 1
GRAD_NORM = 1.0


class Avatar(Restoration, kind="avatar"):
    """Adds noise to every image, in which perturbations drown, and takes it away with a diffusion model.

    The published model learns from all clean training images. Ours is a small network that is trained on the
    images named by `learns_from`: the clean ones under the training images, others of the same source, or
    the training images themselves, for which no clean image is needed. It sees them flipped at random.
    """

    needs: ClassVar[str] = "clean images that a denoiser learns from, unless those to restore serve"
    smoke: ClassVar[dict[str, Any]] = {
        "width": 8,
        "denoiser_epochs": 1,
        "time": 5,
        "learns_from": "training",
    }
    learns_from: Literal["clean", "held_out", "training"] = "clean"
    """Images that the denoiser is trained on: clean ones, others of the source, or those to restore."""
    number: PositiveInt = 2000
    """How many others, if held_out."""
    time: Annotated[int, Field(ge=0, le=1000)] = 100
    """Steps of noise, of 1,000 (paper: t*); 0 changes nothing."""
    width: PositiveInt = 64
    """Channels of the denoiser at full size."""
    denoiser_epochs: PositiveInt = 200
    """Epochs of the denoiser's training."""
    denoiser_batch_size: PositiveInt = 128
    """Images of one step."""
    denoiser_lr: PositiveFloat = 2e-4
    """Learning rate of Adam."""
    denoiser_ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay rate of the average of the denoiser's weights."""

    curve: ClassVar[Curve] = "linear"
    steps: ClassVar[int] = 1000

    @property
    def clean_images(self) -> CleanImages | None:
        if not self.time or self.learns_from == "training":
            return None
        return CleanImages(self.learns_from, self.number if self.learns_from == "held_out" else None)

    def check(self, images: Extent) -> None:
        if any(side % 4 for side in images.shape[1:]):
            height, width = images.shape[1:]
            raise InputError(
                f"{self.kind}: images are halved twice and doubled again, so their sides must be multiples "
                f"of 4; found {height}x{width}: give the source another size"
            )

    def restore(self, images: Images, clean: Images | None, context: RestorationContext) -> Restored:
        self.check(images.extent)
        if not self.time:
            return Restored(images)
        stages, source = Stages(self, context), images if clean is None else clean
        diffusion = Diffusion.of(self.curve, self.steps)

        def loss(net: UNet, x: Tensor, labels: Tensor, gen: torch.Generator, epoch: int) -> Tensor:
            flipped = torch.rand(len(x), 1, 1, 1, generator=gen, device=x.device) < 0.5
            return diffusion.loss(net, 2 * torch.where(flipped, x.flip(3), x) - 1, gen)

        net = build(images.shape, width=self.width, seed=stages.seed(STAGE))
        recipe = Recipe(
            prefix="denoiser_",
            epochs=self.denoiser_epochs,
            batch_size=self.denoiser_batch_size,
            lr=self.denoiser_lr,
            grad_norm=GRAD_NORM,
            ema=self.denoiser_ema,
        )

        reused = True

        def trained() -> Tensor:
            nonlocal reused
            reused = False
            done = stages.train(STAGE, net, source, loss, recipe)
            return parameters_to_vector(done.parameters()).detach().cpu()

        weights = context.cache(f"{self.shared}-{context.seed}", trained)
        denoiser = build(images.shape, width=self.width, seed=0).to(context.device).eval()
        with torch.no_grad():
            vector_to_parameters(weights.to(context.device), denoiser.parameters())

        def denoised(x: Tensor, gen: torch.Generator) -> Tensor:
            return (diffusion.denoised(denoiser, 2 * x - 1, self.time, gen) + 1) / 2

        with stages.used(images, recipe):
            done = stages.applied(STAGE, images, self.denoiser_batch_size, denoised)
        return Restored(done, {"learnt_from": len(source), "reused": reused})

    @property
    def canonical(self) -> Self:
        number = self.number if self.learns_from == "held_out" else type(self).model_fields["number"].default
        return self.model_copy(update={"number": number})

    @property
    def shared(self) -> str:
        """The name of its denoiser: what its training depends on, but for the images."""
        usual = {"time": 1, "learns_from": "training", "number": 1}
        return f"denoiser-{self.canonical.model_copy(update=usual).key}"

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        if not self.time:
            return Work()
        denoising = over(images, self.denoiser_batch_size, Passes(forward=self.time), self._flops(shape))
        return self.shared_work(images, shape=shape, num_classes=num_classes) + denoising

    def shared_work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        if not self.time:
            return Work()
        learnt = self.number if self.learns_from == "held_out" else images
        step = Passes(forward=1, backward=1)
        return over(learnt, self.denoiser_batch_size, step, self._flops(shape)) * self.denoiser_epochs

    def _flops(self, shape: Shape) -> Flops:
        return flops_of(UNet(shape, width=self.width).to(META), shape)
