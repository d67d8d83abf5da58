"""Noise against networks that do not change: signed steps on every image, under augmentation. The base of
error-maximising, hypocritical and self-ensemble noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn

from poisons.base import CraftContext, Poison
from poisons.methods.descent import Batch, Descent
from poisons.methods.em_noise import Differentiable
from poisons.methods.restarts import descend
from poisons.perturbations.delta import Delta, NoiseEps
from poisons.surrogate import Surrogate, surrogate, surrogate_name
from trainers.augmentations.subpixel_shift import SubpixelShift
from trainers.families import Passes
from trainers.flops import Shape, Work, network_flops, over, trial_work
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import memory_for
from trainers.precision import BatchSizes, batch_sizes, resolve
from trainers.recipe import TrainSpec, repeatable
from trainers.spec import InputError, Step
from trainers.trial import Trial

SMOKE: dict[str, Any] = {
    "surrogate": {
        "architecture": {"kind": "resnet18", "width": 4},
        "epochs": 8,
        "batch_size": 20,
        "augmentations": [],
    },
    "steps": 2,
    "batch_size": 16,
}


class FixedNetworkNoise(Poison):
    """Noise of each image that descends an objective of a surrogate trained on the clean images."""

    needs: ClassVar[str] = "a surrogate"
    bound: ClassVar[str] = "Linf eps"
    wants_gpu: ClassVar[bool] = True
    surrogate: TrainSpec = TrainSpec()
    """Network that is trained on the clean images, once for all poisons that name it."""
    surrogate_seed: int = 0
    """Seed of the surrogate's training."""
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    step: Step | None = None
    """Length of a step, above 0, in units of the pixel range; null is the published share of eps."""
    steps: PositiveInt = 250
    """Steps on each image."""
    restarts: PositiveInt = 1
    """Starts from other noise, of which that with the lowest objective is kept."""
    batch_size: PositiveInt = 512
    """Images of one step."""
    augmentations: Differentiable = (SubpixelShift(),)
    """Drawn anew at each step; gradients must pass, and images not be mixed."""

    usual_step: ClassVar[Fraction]  # of eps
    from_zero: ClassVar[bool] = False  # whether the noise starts at zero; else it is drawn, and may be again

    @field_validator("restarts")
    @classmethod
    def _starts_differ(cls, restarts: int) -> int:
        if cls.from_zero and restarts > 1:
            raise ValueError("noise starts at zero, and is published without restarts: leave `restarts` out")
        return restarts

    @field_validator("surrogate")
    @classmethod
    def _from_its_seed(cls, surrogate: TrainSpec) -> TrainSpec:
        if surrogate.start is not None:
            raise ValueError("a surrogate begins with the weights that its seed draws: leave `start` out")
        if (restoration := surrogate.defense.restoration) is not None:
            raise ValueError(
                "a surrogate is trained on the images as they are: leave "
                f"{restoration.kind} out of its `defense`"
            )
        return surrogate

    @property
    def transfers(self) -> bool:
        return False

    @property
    def splits(self) -> bool:
        return True

    @property
    def networks(self) -> int:
        """At how many epochs of the surrogate's training its network is used."""
        return 1

    @property
    def shared(self) -> str:
        return surrogate_name(self.surrogate, self.surrogate_seed, self.networks)

    @property
    def step_length(self) -> Fraction:
        """The length of a step, in units of the pixel range."""
        return self.usual_step * self.eps if self.step is None else self.step

    @abstractmethod
    def objective(self, out: Tensor, labels: Tensor, aim: Tensor | None) -> Tensor:
        """What the noise minimises, the sum over images: of what a network gives for them, and of what `aims`
        gives for that network; `labels` int64 N."""

    def head(self, clean: Images) -> str | None:
        """The name of the layer whose inputs the objective reads; None if it reads logits."""
        return None

    def aims(self, models: Sequence[nn.Module], head: str | None, clean: Images) -> tuple[Tensor | None, ...]:
        """What the objective of each network needs beside what it gives for an image."""
        return (None,) * len(models)

    def begin(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """The noise of a batch before the first step."""
        if self.from_zero:
            return torch.zeros_like(x)
        eps = float(self.eps)
        return (torch.randn(x.shape, generator=gen, device=x.device) * eps).clamp(-eps, eps)

    def direction(self, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient whose sign the noise at images `z` descends, and the mean objective of the
        networks."""
        grad, value = batch.gradient(0, z)
        for number in range(1, batch.networks):
            more, also = batch.gradient(number, z)
            grad, value = grad + more, value + also
        return grad, value / batch.networks

    def gradients(self) -> int:
        """Gradients of a network that a step takes."""
        return self.networks

    def check(self, clean: Extent) -> None:
        if not clean.images:
            raise InputError(f"{self.kind}: noise is crafted from images, and there are none")
        if clean.num_classes < 2:
            raise InputError(f"{self.kind}: a surrogate tells classes apart, and there is only one")
        self.surrogate.check(clean)
        for augment in self.augmentations:
            augment.check(clean)
        check_last_batch(
            self.surrogate.architecture, clean, self.surrogate.batch_size, field="surrogate.batch_size"
        )

    def check_images(self, clean: Images) -> None:
        """InputError if it cannot be crafted from these images for a reason that their extent does not show.
        Called before the surrogate is trained."""
        self.head(clean)  # whether it has one

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        network = network_flops(self.surrogate.architecture, shape=shape, num_classes=num_classes)
        training = self.shared_work(images, shape=shape, num_classes=num_classes)
        gradients = self.steps * self.gradients()
        descent = Passes(forward=gradients, inputs=gradients)
        return training + over(images, self.batch_size, descent, network) * self.restarts

    def shared_work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        network = network_flops(self.surrogate.architecture, shape=shape, num_classes=num_classes)
        return trial_work(Trial(train=self.surrogate), network, train=images, test=min(500, images))

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """InputError if the surrogate learnt nothing; what its training raises."""
        self.check(clean.extent)
        self.check_images(clean)
        return self.noise(self.surrogates(clean, context), clean, seed, context)

    def surrogates(self, clean: Images, context: CraftContext) -> Surrogate:
        """The networks, whose weights require no gradient."""
        found = surrogate(self.surrogate, clean, self.surrogate_seed, context, checkpoints=self.networks)
        for model in found.models:
            model.requires_grad_(False)
        return found

    def noise(self, surrogates: Surrogate, clean: Images, seed: int, context: CraftContext) -> Delta:
        """The noise against these networks."""
        named = memory_for(
            self.surrogate.architecture.kind,
            self.batch_size,
            clean,
            context.device,
            field="batch_size of the poison",
        )
        with repeatable(), named:
            recipe, head = self._recipe(clean, context.device), self.head(clean)
            aims = self.aims(surrogates.models, head, clean)
            descent = Descent(self, surrogates.models, head, aims, recipe, clean.num_classes, seed)
            done = descend(descent, clean, context, owner=f"{self.kind} {self.key}, seed {seed}")
        if done.best is None:
            raise InputError(
                f"{self.kind}: the objective was not finite in any restart; train the surrogate otherwise"
            )
        facts = {
            "surrogate_accuracy": round(surrogates.accuracy, 4),
            "objective": round(done.lowest, 6),
            "precision": recipe.precision,
            "reused": surrogates.reused,
        }
        return Delta(done.best, "image", facts)

    def _recipe(self, clean: Images, device: torch.device) -> TrainSpec:
        """The recipe of the surrogate, with the arithmetic of the noise."""
        arithmetic = resolve(
            self.surrogate,
            shape=clean.shape,
            num_classes=clean.num_classes,
            sizes=BatchSizes(attack=batch_sizes(len(clean), self.batch_size)),
            device=device,
            field=f"surrogate.precision of {self.kind}",
        )
        return self.surrogate.model_copy(update={"precision": arithmetic.precision})
