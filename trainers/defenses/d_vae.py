"""Purification with a rate-constrained variational autoencoder, D-VAE (Yu, Wang, Xia, Yang, Lu, Kot; ICML
2024)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from trainers.families import Passes
from trainers.flops import Work, flops_of, over
from trainers.generative import Recipe, Stages
from trainers.images import Extent, Images, nearest_levels, to_float
from trainers.meta import META, Shape
from trainers.restoration import Restoration, RestorationContext, Restored
from trainers.spec import InputError
from trainers.vae import DisentanglingVae, Parts, build, vae_loss

FIRST, SECOND = 1, 2  # the stages
EARLY = 11  # epochs before the size of the perturbation counts
SMALL = 0.002  # mean square of the perturbation up to which it costs nothing


class DVae(Restoration, kind="d_vae"):
    """Separates the images from what is easy to predict about them, their perturbation, and keeps the images.

    A first network is allowed so few bits that it makes blurred images and, from the class, a perturbation,
    which is subtracted. A second one, allowed more bits, is trained on the result; its perturbation is
    subtracted too, and its images are kept. As released for CIFAR, with 0.01 as the weight in both stages;
    the released network for ImageNet has a smaller code. Memory grows with the classes times the values of an
    image.
    """

    smoke: ClassVar[dict[str, Any]] = {"width": 4, "latent": 8, "vae_epochs": 1}
    width: PositiveInt = 64
    """Channels of the first layers."""
    latent: PositiveInt = 256
    """Channels of the code, at half the size of the images (paper: latent dimension)."""
    vae_epochs: PositiveInt = 60
    """Epochs of each of the two networks."""
    vae_batch_size: Annotated[int, Field(ge=2)] = 128
    """Images of one step."""
    vae_lr: PositiveFloat = 5e-3
    """Learning rate of Adam at the start, which falls to 0 as a cosine."""
    rates: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 3.0)
    """Rates in nats at a position of the code that cost nothing, of each network (paper: target KL)."""
    weight: PositiveFloat = 0.01
    """Weight of the rate in the loss."""
    grad_norm: PositiveFloat = 5.0
    """Largest L2 norm of the gradient of all weights together."""

    def check(self, images: Extent) -> None:
        if any(side % 2 for side in images.shape[1:]):
            height, width = images.shape[1:]
            raise InputError(
                f"d_vae: images are halved and doubled again, so their sides must be even; found "
                f"{height}x{width}: give the source another size"
            )
        if images.images < 2:
            raise InputError(
                "d_vae: a network is trained on the images, and there are fewer than 2: take more"
            )

    def restore(self, images: Images, clean: Images | None, context: RestorationContext) -> Restored:
        self.check(images.extent)
        stages = Stages(self, context)
        first = stages.kept(SECOND, images)
        if first is None:
            net = self._trained(stages, FIRST, images)
            with stages.used(images, self._recipe):
                first = self._applied(stages, FIRST, net, images)
        net = self._trained(stages, SECOND, first)
        with stages.used(images, self._recipe):
            done = self._applied(stages, SECOND, net, first)
        return Restored(done, {"epochs": stages.rows})

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        net = DisentanglingVae(shape, num_classes, width=self.width, latent=self.latent).to(META)
        network = flops_of(net, shape, lambda parts: parts.image + parts.perturbation)
        training = over(images, self.vae_batch_size, Passes(forward=1, backward=1), network)
        return training * (2 * self.vae_epochs) + over(
            images, self.vae_batch_size, Passes(forward=3), network
        )

    @property
    def _recipe(self) -> Recipe:
        return Recipe(
            prefix="vae_",
            epochs=self.vae_epochs,
            batch_size=self.vae_batch_size,
            lr=self.vae_lr,
            grad_norm=self.grad_norm,
            cosine=True,
        )

    def _trained(self, stages: Stages, stage: int, images: Images) -> DisentanglingVae:
        shape, rate = images.shape, self.rates[stage - FIRST]
        seed = stages.seed(stage)
        net = build(shape, images.num_classes, width=self.width, latent=self.latent, seed=seed)

        def loss(
            net: DisentanglingVae, x: Tensor, labels: Tensor, gen: torch.Generator, epoch: int
        ) -> Tensor:
            limit = SMALL if epoch > EARLY else None
            return vae_loss(net(x, labels, gen), x, rate=rate, weight=self.weight, limit=limit)

        trained = stages.train(stage, net, images, loss, self._recipe, keep=stage == SECOND)
        assert isinstance(trained, DisentanglingVae)
        return trained

    @torch.no_grad()
    def _applied(self, stages: Stages, stage: int, net: DisentanglingVae, images: Images) -> Images:
        """The images without the perturbation; in the second stage, what the network makes of those."""
        device, gen = stages.context.device, stages.generator(stage)
        done = []
        for some in images.chunks(self.vae_batch_size):
            x, labels = to_float(some.x.to(device)), some.y.to(device)
            parts: Parts = net(x, labels, gen)
            x = (x - parts.perturbation).clamp(0, 1)
            if stage == SECOND:
                again: Parts = net(x, labels, gen)
                x = again.image
            done.append(nearest_levels(x).cpu())
        return Images(torch.cat(done), images.y, images.num_classes)
