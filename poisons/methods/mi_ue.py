"""Noise that reduces mutual information, MI-UE (ICLR 2026, arXiv 2603.03725): it draws the features of each
class together, and apart from those of others."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from poisons.base import CraftContext
from poisons.methods.em_noise import Epochs, ImageNoise, Noise, begin, channels_last, judge, pick
from poisons.methods.min_min import FIELD, MinMinNoise, diverged
from poisons.perturbations.delta import Delta, NoiseEps, whole_levels
from trainers.architectures.resnet import ResNet18
from trainers.families import Architecture, Optimizer, Passes
from trainers.features import feature, head_of
from trainers.flops import Shape, Work, network_flops, over
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import Training, generator, seeded, train_step
from trainers.optimizers.sgd import Sgd
from trainers.pgd import Frozen
from trainers.recipe import TrainSpec, one_thread
from trainers.spec import InputError, Step

STREAM = 5065045  # first part of every random stream here, after the seed
TRAIN_EPOCHS, NOISE_EPOCHS, TRAIN, FLIPS = range(4)


class MiUe(MinMinNoise, kind="mi_ue"):
    """Noise under which the features of each class are alike and unlike those of other classes, in a network
    that learns from the noisy images epoch by epoch. Images are mirrored at random under their noise.

    Signed steps minimise, over the pairs in a batch, -log(Σ same class / Σ all) of exp(cosine/temperature),
    plus `distance` times log(1 + Σ distances within the class / D), as published; the released command leaves
    the second term out. Unlike the released generator, ours normalises images inside.
    """

    smoke: ClassVar[dict[str, Any]] = {
        "generator": {"kind": "resnet18", "width": 4},
        "epochs": 2,
        "steps": 2,
        "batch_size": 32,
        "noise_batch_size": 32,
    }
    published: ClassVar[str] = "ICLR 2026"
    generator: Architecture = ResNet18()
    """Network whose features the noise moves; its own recipe is not used."""
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    step: Step = Fraction(1, 1275)
    """Length of a noise step in the first epoch; it changes evenly towards `last_step`."""
    last_step: Step | None = None
    """Length of a noise step after the last epoch; null is eps/2 divided by `steps`."""
    steps: PositiveInt = 10
    """Noise steps of each epoch."""
    epochs: PositiveInt = 100
    """Times that the network is trained on all images, and the noise moved after it."""
    batch_size: PositiveInt = 128
    """Images of one training step of the network."""
    noise_batch_size: Annotated[int, Field(ge=2)] = 512
    """Images whose features are compared in one noise step."""
    temperature: PositiveFloat = 0.1
    """Temperature of the cosines (paper: τ)."""
    distance: NonNegativeFloat = 0.1
    """Weight of the distances within a class (paper: ζ)."""
    flip: bool = True
    """Whether images are mirrored at random under their noise."""
    optimizer: Optimizer = Sgd(weight_decay=1e-4)
    """Optimizer of the network; its rate falls to 0 as a cosine over the epochs."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic on float32 weights; auto is bfloat16 where the device has it natively and correctly."""

    @property
    def transfers(self) -> bool:
        return False

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        network = network_flops(self.generator, shape=shape, num_classes=num_classes)
        training = over(images, self.batch_size, Passes(forward=1, backward=1), network)
        descent = Passes(forward=self.steps + 1, inputs=self.steps)
        return (training + over(images, self.noise_batch_size, descent, network)) * self.epochs

    def check(self, clean: Extent) -> None:
        super().check(clean)
        check_last_batch(self.generator, clean, self.batch_size, field=FIELD)

    def _recipe(self) -> TrainSpec:
        fields = ("optimizer", "batch_size", "precision")
        renamed = {"architecture": self.generator, "augmentations": (), "epochs": self.epochs}
        return TrainSpec().model_copy(update=renamed | {name: getattr(self, name) for name in fields})

    def _begin(self, clean: Images, seed: int, context: CraftContext) -> FeatureNoise:
        network = self.generator.network(num_classes=clean.num_classes, shape=clean.shape, seed=0)
        if (head := head_of(network, clean)) is None:
            raise InputError(
                "mi_ue: the generator does not end with a linear layer, whose inputs are the features: "
                "choose an architecture such as resnet18"
            )
        values = begin((len(clean), *clean.shape), float(self.eps), context.device, random=False, seed=seed)
        return FeatureNoise(clean, values, head)

    def noise_size(self, recipe: TrainSpec) -> int:
        return self.noise_batch_size

    def _ended(self, training: Training) -> bool:
        return len(training.history) >= self.epochs

    def _train(
        self, training: Training, clean: Images, noise: Noise, seed: int, device: torch.device
    ) -> None:
        epoch = len(training.history)
        rate = self.optimizer.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        batches = Epochs(len(clean), self.batch_size, True, False, seed, STREAM + TRAIN_EPOCHS).epoch(epoch)
        training.model.train()
        with seeded(device, seed, STREAM, TRAIN, epoch), one_thread(device):
            for batch, rows in enumerate(batches):
                gen = generator(device, seed, STREAM, TRAIN, epoch, batch)
                x, labels = pick(clean, rows, device)
                noisy = self._mirrored(x, gen) + noise.of(rows, labels)
                y = training.spec.targets(labels, clean.num_classes)
                train_step(training, training.model, noisy, y, gen, lr=rate)

    def _descend(self, training: Training, noise: Noise, seed: int, context: CraftContext) -> float:
        if not isinstance(noise, FeatureNoise):
            raise TypeError("noise of this poison has features")
        device, images, epoch = context.device, noise.images, len(training.history)
        model, autocast = training.model, training.spec.autocast
        counts = torch.zeros(2, dtype=torch.int64, device=device)
        order = Epochs(len(images), self.noise_batch_size, True, False, seed, STREAM + NOISE_EPOCHS)
        with Frozen(model):
            for batch, rows in enumerate(order.epoch(epoch)):
                gen = generator(device, seed, STREAM, FLIPS, epoch, batch)
                x, labels = pick(images, rows, device)
                x = self._mirrored(x, gen)
                moved, size = noise.of(rows, labels), self.size(epoch)
                for _ in range(self.steps):
                    z = channels_last(x + moved).requires_grad_()
                    with torch.enable_grad():
                        with autocast(device):
                            found = feature(model, noise.head, z).flatten(1)
                        (grad,) = torch.autograd.grad(self.objective(found.float(), labels), z)
                    moved = (moved - size * grad.sign()).clamp(-float(self.eps), float(self.eps))
                    moved = (x + moved).clamp(0, 1) - x
                noise.values[rows.to(noise.values.device)] = moved.to(noise.values.device)
                with autocast(device):
                    counts += judge(model, x + moved, labels)
        wrong, infinite = counts.tolist()
        if infinite:
            raise diverged(training)
        return wrong / len(images)

    def objective(self, features: Tensor, labels: Tensor) -> Tensor:
        """What the noise minimises: the mean over a batch of features N,D in float32."""
        value = contrast(features, labels, self.temperature)
        return value + self.distance * spread(features, labels) if self.distance else value

    def size(self, epoch: int) -> float:
        """The length of a noise step in this epoch, counted from 0."""
        last = float(self.eps / 2 / self.steps if self.last_step is None else self.last_step)
        return last + (self.epochs - epoch) / self.epochs * (float(self.step) - last)

    def _mirrored(self, x: Tensor, gen: torch.Generator) -> Tensor:
        if not self.flip:
            return x
        chosen = torch.rand((len(x), 1, 1, 1), generator=gen, device=x.device) < 0.5
        return torch.where(chosen, x.flip(3), x)

    def _delta(self, noise: Noise, facts: dict[str, Any]) -> Delta:
        return Delta(whole_levels(noise.values, "signed", self.eps), "image", facts)


class FeatureNoise(ImageNoise):
    """One noise per image, which moves the inputs of the layer `head`."""

    def __init__(self, images: Images, values: Tensor, head: str) -> None:
        super().__init__(images, values)
        self.head = head


def contrast(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The mean over a batch of -log(Σ same class / Σ all) of exp(cosine/temperature); features N,D."""
    unit = features / features.norm(dim=1, keepdim=True).clamp(min=1e-8)
    near = (unit @ unit.mT / temperature).exp() + 1e-8
    same = labels[:, None] == labels
    return -((near * same).sum(1) / near.sum(1)).log().mean()


def spread(features: Tensor, labels: Tensor) -> Tensor:
    """The mean over a batch of log(1 + the sum of distances to the images of the same class / D); features
    N,D."""
    squares = features.square().sum(1)
    apart = (squares[:, None] + squares - 2 * features @ features.mT).clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels
    return (1 + (apart * same).sum(1) / features.shape[1]).log().mean()
