"""Robust error-minimising noise, REM (Fu, He, Liu, Shen, Tao; ICLR 2022): noise that makes images easy to fit
for adversarial training too."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor

from poisons.base import CraftContext, Poison
from poisons.methods.em_noise import CPU, Differentiable, Epochs, channels_last
from poisons.methods.min_min import FIELD, noise_arithmetic
from poisons.methods.rem_crafting import REM, WEIGHTS, Crafting, robust_gradient
from poisons.perturbations.delta import Delta, NoiseEps
from trainers.architectures.resnet import ResNet18
from trainers.augmentations.flip_crop import FlipCrop
from trainers.defenses.erm import Erm
from trainers.defenses.pgd_at import PgdAt
from trainers.families import Architecture, Defense, Optimizer, Passes, Schedule
from trainers.feed import place
from trainers.flops import Shape, Work, network_flops, over
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import Training, generator, memory_for
from trainers.optimizers.sgd import Sgd
from trainers.pgd import Budget, Frozen
from trainers.precision import batch_sizes
from trainers.recipe import TrainSpec, repeatable
from trainers.schedules.multi_step import MultiStep
from trainers.spec import Eps, InputError, Step


class Rem(Poison, kind="rem"):
    """Noise for each image that makes a generator's loss small even at adversarial points around it, so that
    adversarial training does not help. Defaults are those published for CIFAR-10.

    Each step finds noise for one batch, in descent of the loss at adversarial points around several augmented
    copies of each image, and then trains the generator on adversarial points around the noisy images. At the
    end the trained generator gives every image its noise, where the released code leaves out an incomplete
    last batch. Unlike the released generator, ours normalises images inside, as every network here does.
    """

    needs: ClassVar[str] = "a network trained meanwhile"
    bound: ClassVar[str] = "Linf eps"
    published: ClassVar[str] = "ICLR 2022"
    wants_gpu: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {
        "generator": {"kind": "resnet18", "width": 4},
        "steps": 2,
        "attack_steps": 2,
        "samples": 2,
        "train_steps": 3,
        "batch_size": 16,
    }
    generator: Architecture = ResNet18()
    """Network whose loss the noise minimises (paper: f'); its own recipe is not used."""
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ρ_u), in units of the pixel range; from 1/255 (one level) to 1."""
    step: Step | None = None
    """Length of a noise step (paper: α_u), above 0, in units of the pixel range; null is eps/5."""
    steps: PositiveInt = 10
    """Noise steps on each batch (paper: K_u), from a random start."""
    attack_eps: Eps = Fraction(4, 255)
    """Radius of the adversarial training to withstand (paper: ρ_a), in the same units; 0 is none."""
    attack_step: Step | None = None
    """Length of a step of the attack (paper: α_a), above 0, in the same units; null is attack_eps/5."""
    attack_steps: PositiveInt = 10
    """Steps of the attack (paper: K_a), from a random start."""
    samples: PositiveInt = 5
    """Augmented copies of each image whose gradients a noise step adds up (paper: J)."""
    train_steps: PositiveInt = 5000
    """Training steps of the generator (paper: M), each on a batch with noise of its own."""
    batch_size: PositiveInt = 128
    """Images of one step, of the generator and of the noise."""
    shuffle: bool = True
    """Whether batches of the generator's training are shuffled."""
    drop_last: bool = True
    """Whether its epochs leave out an incomplete last batch."""
    optimizer: Optimizer = Sgd()
    """Optimizer of the generator."""
    schedule: Schedule = MultiStep(milestones=(0.4, 0.8))
    """How its learning rate changes; the default is a tenth after steps 2000 and 4000 of 5000."""
    augmentations: Differentiable = (FlipCrop(),)
    """Applied before the generator in both kinds of step; gradients must pass, and images not be mixed."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic on float32 weights; auto is bfloat16 where the device has it natively and correctly."""

    @field_validator("attack_eps")
    @classmethod
    def _in_range(cls, eps: Fraction) -> Fraction:
        if eps > 1:
            raise ValueError(f"attack_eps is at most 1, the whole pixel range; found {eps}; write 4/255")
        return eps

    @property
    def transfers(self) -> bool:
        return False

    @property
    def limit(self) -> int:
        """Largest change of a value in levels."""
        return math.floor(self.eps * 255)

    @property
    def attack(self) -> Defense:
        """The adversarial training to withstand; plain training if its radius is 0."""
        if not self.attack_eps:
            return Erm()
        step = self.attack_eps / 5 if self.attack_step is None else self.attack_step
        return PgdAt(budget=Budget(eps=self.attack_eps), steps=self.attack_steps, step=step)

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        network = network_flops(self.generator, shape=shape, num_classes=num_classes)
        passes, size, copies = self.attack.passes, self.batch_size, self.samples
        gradients = self.steps * (1 + passes.inputs)  # of each copy of an image
        search = Passes(forward=gradients, inputs=gradients)
        one = min(images, size)
        step = over(one, size, passes, network) + over(copies * one, copies * size, search, network)
        return step * self.train_steps + over(copies * images, copies * size, search, network)

    def check(self, clean: Extent) -> None:
        """InputError if the training meets a last batch of one image on which the generator cannot be
        trained."""
        if not clean.images:
            raise InputError("rem: noise is crafted from images, and there are none")
        self._recipe().check(clean)
        epochs = self.epochs(clean.images, seed=0)
        if epochs.last_batch_size == 1 and self.train_steps >= epochs.batches:
            check_last_batch(self.generator, clean, self.batch_size, field=FIELD)

    def epochs(self, images: int, *, seed: int) -> Epochs:
        """The batches of the generator's training."""
        return Epochs(images, self.batch_size, self.shuffle, self.drop_last, seed, REM)

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """DivergenceError if the generator's weights or loss are no longer finite."""
        self.check(clean.extent)
        device = context.device
        with repeatable(), memory_for(self.generator.kind, self.batch_size, clean, device, field=FIELD):
            clean, recipe = place(clean, device), self._recipe()
            sizes = batch_sizes(len(clean), self.batch_size)
            moved = frozenset(self.samples * size for size in sizes)
            arithmetic = noise_arithmetic(recipe, clean, moved, device, self.kind)
            recipe = recipe.model_copy(update={"precision": arithmetic.precision})
            # differs from `seed` itself, so that no victim starts from these weights
            weights = generator(CPU, seed, REM, WEIGHTS).initial_seed()
            training = Training.begin(recipe, clean, seed=weights, device=device)
            crafting = Crafting(self, clean, training, seed, context)
            crafting.resume()
            crafting.train()
            crafting.finish()
        facts: dict[str, Any] = {
            "steps": self.train_steps,
            "generator_accuracy": training.history[-1]["accuracy"],
            "precision": arithmetic.precision,
        }
        facts |= {"precision_fallback": arithmetic.fallback} if arithmetic.fallback else {}
        return Delta(torch.cat(crafting.levels), "image", facts)

    def noise(self, training: Training, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        """Noise N,C,H,W within ±eps for a batch of float images and class probabilities."""
        eps, step = float(self.eps), float(self.eps / 5 if self.step is None else self.step)
        start = (2 * torch.rand(x.shape, generator=gen, device=x.device) - 1) * eps
        noise = channels_last(start)
        with Frozen(training.model):
            for _ in range(self.steps):
                grad = robust_gradient(training.model, training.spec, x, noise, y, gen, copies=self.samples)
                noise = (noise - step * grad.sign()).clamp(-eps, eps)
        return noise

    def _recipe(self) -> TrainSpec:
        """How the generator is trained; its architecture's own recipe is not used."""
        fields = ("optimizer", "schedule", "batch_size", "augmentations", "precision")
        renamed = {"architecture": self.generator, "defense": self.attack}
        return TrainSpec().model_copy(update=renamed | {name: getattr(self, name) for name in fields})
