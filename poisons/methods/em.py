"""Error-minimising noise (Huang, Ma, Erfani, Bailey, Wang; ICLR 2021): noise that makes images trivially easy
to fit.

A bi-level loop: a generator network takes a few steps on the noisy images, then the noise, one per image or
one per class, descends the generator's loss, until the generator makes almost no error on the noisy images.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from poisons.base import CraftContext
from poisons.methods.em_noise import (
    CPU,
    EM,
    TRAIN,
    ClassNoise,
    Descent,
    Differentiable,
    Epochs,
    ImageNoise,
    Noise,
    begin,
    pick,
)
from poisons.methods.min_min import FIELD, MinMinNoise, diverged
from poisons.perturbations.delta import Application, Delta, NoiseEps, whole_levels
from poisons.stratify import stratified
from trainers.architectures.resnet import ResNet18
from trainers.families import Architecture, Optimizer, Passes
from trainers.feed import place
from trainers.flops import Shape, Work, network_flops, over
from trainers.images import Extent, Images
from trainers.last_batch import check_last_batch
from trainers.loop import Training, generator, seeded, train_step
from trainers.optimizers.sgd import Sgd
from trainers.pgd import Frozen
from trainers.recipe import TrainSpec, one_thread
from trainers.spec import Step

GENERATOR_EPOCHS, NOISE_EPOCHS, CHOSEN = range(3)
ROUNDS = 10  # assumed by cost estimates; about what CIFAR-10 takes
CLASS_WISE: dict[str, Any] = {
    "steps": 1,
    "share": 0.2,
    "stop_error": 0.1,
    "shuffle": True,
    "drop_last": True,
}


class Em(MinMinNoise, kind="em", version=2):  # 2: `precision` is `auto` by default
    """Noise for each image or each class that makes a generator's error small. Defaults are those published
    for the granularity and CIFAR-10. Unlike the published generator, ours normalises images inside, as every
    network here does.

    Each round trains the generator on all noisy images, then changes the noise in descent of the generator's
    loss. Crafting ends when the generator's error is small, or after `max_rounds`; the record says which.
    The error is that on images in [0, 1], where the release does not clip them.
    """

    published: ClassVar[str] = "ICLR 2021"
    smoke: ClassVar[dict[str, Any]] = {
        "generator": {"kind": "resnet18", "width": 4},
        "steps": 2,
        "train_steps": 2,
        "max_rounds": 2,
        "batch_size": 64,
    }
    granularity: Literal["sample_wise", "class_wise"] = "sample_wise"
    """Whether each image or each class has its own noise."""
    generator: Architecture = ResNet18()
    """Network whose loss the noise minimises (paper: f'); its own recipe is not used."""
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range; from 1/255 (one level) to 1."""
    step: Step | None = None
    """Length of a noise step (paper: α), above 0, in units of the pixel range; null is eps/10."""
    steps: PositiveInt = 20
    """Noise steps of each round (paper: T); 1 by default if class_wise."""
    train_steps: PositiveInt = 10
    """Training steps of the generator in each round (paper: M), on the batches that come next."""
    max_rounds: PositiveInt = 50
    """Rounds after which crafting ends even if `stop_error` is not reached."""
    stop_error: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Error of the generator on noisy images that ends crafting (paper: λ); 0.1 by default if class_wise."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each class used for class-wise noise and for its error; 0.2 by default if class_wise."""
    random_start: bool = False
    """Whether the noise starts at random within ±eps, not at zero."""
    batch_size: PositiveInt = 512
    """Images of one step, of the generator and of the noise."""
    shuffle: bool = False
    """Whether batches (generator, class-wise noise) are shuffled; true by default if class_wise."""
    drop_last: bool = False
    """Whether these batches leave out an incomplete last one; true by default if class_wise."""
    optimizer: Optimizer = Sgd()
    """Optimizer of the generator, at a constant learning rate."""
    max_grad_norm: PositiveFloat = 5.0
    """Largest L2 norm of the gradient of all the generator's weights together."""
    augmentations: Differentiable = ()
    """Applied before the generator in both kinds of step; gradients must pass, and images not be mixed."""
    application: Application = "signed"
    """How noise becomes whole levels: rounded, or truncated as the EM or the OPS release does."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic on float32 weights; auto is bfloat16 where the device has it natively and correctly."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        """Defaults that depend on the granularity."""
        class_wise = isinstance(value, dict) and value.get("granularity") == "class_wise"
        return CLASS_WISE | value if class_wise else value

    @model_validator(mode="after")
    def _every_image_has_noise(self) -> Em:
        if self.share < 1 and not self.transfers:
            raise ValueError(
                f"share {self.share} would leave images without noise: leave `share` out, "
                "or set `granularity: class_wise`"
            )
        return self

    @property
    def transfers(self) -> bool:
        return self.granularity == "class_wise"

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        """The number of rounds is unknown in advance; ten are assumed."""
        network = network_flops(self.generator, shape=shape, num_classes=num_classes)
        descent = Passes(forward=self.steps + 1, inputs=self.steps)  # and the error afterwards
        size, chosen = self.batch_size, math.ceil(self.share * images)
        step = over(min(size, images), size, Passes(forward=1, backward=1), network)
        one = step * self.train_steps + over(chosen, size, descent, network)
        return one * min(self.max_rounds, ROUNDS)

    @property
    def splits(self) -> bool:
        return not self.transfers

    def check(self, clean: Extent) -> None:
        """InputError if the first round meets a last batch of one image on which the generator cannot be
        trained. A later round may never run, and checks for itself."""
        super().check(clean)
        epochs = Epochs(clean.images, self.batch_size, self.shuffle, self.drop_last, 0, GENERATOR_EPOCHS)
        if epochs.last_batch_size > 1 or self.train_steps < epochs.batches:
            return
        check_last_batch(self.generator, clean, self.batch_size, field=FIELD)

    def _recipe(self) -> TrainSpec:
        fields = ("optimizer", "batch_size", "augmentations", "precision")
        renamed = {"architecture": self.generator, "clip_norm": self.max_grad_norm}
        return TrainSpec().model_copy(update=renamed | {name: getattr(self, name) for name in fields})

    def _shared(self, context: CraftContext) -> bool:
        """Whether worker processes take part; tensors are then on the host."""
        return context.workers.size > 1 and self.splits

    def _epochs(self, images: Images, seed: int, stream: int) -> Epochs:
        return Epochs(len(images), self.batch_size, self.shuffle, self.drop_last, seed, stream)

    def _begin(self, clean: Images, seed: int, context: CraftContext) -> Noise:
        """The noise before the first round."""
        rows, device = clean.num_classes if self.transfers else len(clean), context.device
        home = CPU if self._shared(context) else device
        values = begin((rows, *clean.shape), float(self.eps), home, random=self.random_start, seed=seed)
        values = values.to(device) if self.transfers else values  # it is small
        if not self.transfers:
            return ImageNoise(clean, values)
        if self.share < 1:
            gen = generator(CPU, seed, EM, CHOSEN)
            chosen = stratified(clean.y, clean.num_classes, self.share, gen)
            clean = place(clean.take(chosen.nonzero().squeeze(1).to(clean.y.device)), device)
        return ClassNoise(clean, values, self._epochs(clean, seed, NOISE_EPOCHS))

    def _ended(self, training: Training) -> bool:
        rounds = training.history
        return bool(rounds) and (rounds[-1]["error"] <= self.stop_error or len(rounds) >= self.max_rounds)

    def _train(
        self, training: Training, clean: Images, noise: Noise, seed: int, device: torch.device
    ) -> None:
        """The generator's steps of one round. As published, noisy images are not clipped to [0, 1] here."""
        epochs, first = self._epochs(clean, seed, GENERATOR_EPOCHS), len(training.history) * self.train_steps
        training.model.train()
        with seeded(device, seed, EM, TRAIN, first), one_thread(device):
            for turn in range(first, first + self.train_steps):
                epoch, at = divmod(turn, epochs.batches)
                rows = epochs.epoch(epoch)[at]
                if len(rows) == 1:
                    check_last_batch(self.generator, clean.extent, self.batch_size, field=FIELD)
                x, labels = pick(clean, rows, device)
                y = training.spec.targets(labels, clean.num_classes)
                gen = generator(device, seed, EM, TRAIN, turn)
                noisy = x + noise.of(rows, labels)
                train_step(training, training.model, noisy, y, gen, lr=self.optimizer.lr)

    def _descend(self, training: Training, noise: Noise, seed: int, context: CraftContext) -> float:
        """The noise step of one round; the generator's error on the noisy images after it."""
        number = len(training.history) + 1
        with Frozen(training.model):
            descent = Descent(
                model=training.model,
                recipe=training.spec,
                num_classes=noise.images.num_classes,
                eps=float(self.eps),
                step=float(self.eps / 10 if self.step is None else self.step),
                steps=self.steps,
                seed=seed,
                round=number,
            )
            wrong, infinite = noise.descend(descent, context)
        if infinite:
            raise diverged(training)
        return wrong / len(noise.images)

    def _delta(self, noise: Noise, facts: dict[str, Any]) -> Delta:
        reached = facts["rounds"][-1]["error"] <= self.stop_error
        levels = whole_levels(noise.values, self.application, self.eps)
        return Delta(
            levels,
            "class" if self.transfers else "image",
            {"rounds": facts["rounds"], "reached_stop_error": reached, **facts},
        )
