"""Noise against a network that does not change: signed steps on every image, under augmentation. The base of
error-maximising and hypocritical noise."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from poisons.base import CraftContext, Poison
from poisons.methods.em import passes_gradient
from poisons.perturbations.delta import Delta, NoiseEps, NoiseStep, whole_levels
from poisons.surrogate import surrogate, surrogate_name
from trainers.augmentations.subpixel_shift import SubpixelShift
from trainers.families import Augmentation, Passes
from trainers.feed import place
from trainers.flops import Shape, Work, network_flops, over, trial_work
from trainers.images import Extent, Images, to_float
from trainers.last_batch import check_last_batch
from trainers.loop import generator, memory_for
from trainers.pgd import Frozen
from trainers.precision import BatchSizes, batch_sizes, resolve
from trainers.recipe import TrainSpec, repeatable
from trainers.spec import InputError
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
STREAM = 84  # first part of every random stream here, after the seed


class FixedNetworkNoise(Poison):
    """Noise of each image that descends an objective of a surrogate trained on the clean images."""

    wants_gpu: ClassVar[bool] = True
    surrogate: TrainSpec = TrainSpec()
    """Network that is trained on the clean images, once for all poisons that name it."""
    surrogate_seed: int = 0
    """Seed of the surrogate's training."""
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    step: NoiseStep | None = None
    """Length of a step, above 0, in units of the pixel range; null is the published share of eps."""
    steps: PositiveInt = 250
    """Steps on each image."""
    restarts: PositiveInt = 1
    """Starts from other noise, of which that with the lowest objective is kept."""
    batch_size: PositiveInt = 512
    """Images of one step."""
    augmentations: tuple[Augmentation, ...] = (SubpixelShift(),)
    """Drawn anew at each step; gradients must pass, and images not be mixed."""

    usual_step: ClassVar[Fraction]  # of eps

    @field_validator("surrogate")
    @classmethod
    def _from_its_seed(cls, surrogate: TrainSpec) -> TrainSpec:
        if surrogate.start is not None:
            raise ValueError("a surrogate begins with the weights that its seed draws: leave `start` out")
        return surrogate

    @field_validator("augmentations")
    @classmethod
    def _gradient_flows(cls, augmentations: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        for one in augmentations:
            if one.mixes or not passes_gradient(one):
                raise ValueError(f"no gradient of single images passes {one.kind!r}; use 'subpixel_shift'")
        return augmentations

    @property
    def transfers(self) -> bool:
        return False

    @property
    def shared(self) -> str:
        return surrogate_name(self.surrogate, self.surrogate_seed)

    @abstractmethod
    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the noise minimises, the sum over images; `labels` int64 N."""

    def check(self, clean: Extent) -> None:
        if not clean.images:
            raise InputError(f"{self.kind}: noise is crafted from images, and there are none")
        check_last_batch(
            self.surrogate.architecture, clean, self.surrogate.batch_size, field="surrogate.batch_size"
        )

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        network = network_flops(self.surrogate.architecture, shape=shape, num_classes=num_classes)
        training = trial_work(Trial(train=self.surrogate), network, train=images, test=min(500, images))
        descent = Passes(forward=self.steps, inputs=self.steps)
        return training + over(images, self.batch_size, descent, network) * self.restarts

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """InputError if the surrogate learnt nothing; what its training raises."""
        self.check(clean.extent)
        model, accuracy, reused = surrogate(self.surrogate, clean, self.surrogate_seed, context)
        device, owner = context.device, f"{self.kind} {self.key}, seed {seed}"
        kept = self._kept(clean, owner, context)
        begun, lowest = (0, math.inf) if kept is None else (kept["restart"], kept["objective"])
        best: Tensor | None = None if kept is None else kept["levels"]
        named = memory_for(
            self.surrogate.architecture.kind, self.batch_size, clean, device, field="batch_size of the poison"
        )
        with repeatable(), named, Frozen(model):
            arithmetic = resolve(
                self.surrogate,
                shape=clean.shape,
                num_classes=clean.num_classes,
                sizes=BatchSizes(attack=batch_sizes(len(clean), self.batch_size)),
                device=device,
                field=f"surrogate.precision of {self.kind}",
            )
            recipe = self.surrogate.model_copy(update={"precision": arithmetic.precision})
            for restart in range(begun, self.restarts):
                descent = Descent(self, model, recipe, clean.num_classes, seed, restart)
                levels, objective = self._descend(descent, clean, context)
                if objective < lowest:
                    best, lowest = levels, objective
                context.report({"restart": restart + 1, "objective": round(objective, 6)})
                if context.checkpoint is not None and best is not None and restart + 1 < self.restarts:
                    state = {"restart": restart + 1, "objective": lowest, "levels": best}
                    context.checkpoint.save(state, owner=owner)
        if best is None:
            raise InputError(
                f"{self.kind}: the objective was not finite in any restart; train the surrogate otherwise"
            )
        facts = {
            "surrogate_accuracy": round(accuracy, 4),
            "objective": round(lowest, 6),
            "precision": arithmetic.precision,
            "reused": reused,
        }
        return Delta(best, "image", facts)

    def _kept(self, clean: Images, owner: str, context: CraftContext) -> dict[str, Any] | None:
        """What an earlier attempt has done, from the checkpoint."""
        checkpoint = context.checkpoint
        state = None if checkpoint is None else checkpoint.load(owner=owner)
        if checkpoint is None or state is None:
            return None
        levels, restart = state.get("levels"), state.get("restart")
        fits = isinstance(levels, Tensor) and levels.shape == clean.x.shape and not levels.is_floating_point()
        counted = type(restart) is int and 0 < restart < self.restarts
        if not fits or not counted or not isinstance(state.get("objective"), float):
            checkpoint.reject("was damaged (it holds no levels)")
            return None
        return state

    def _descend(self, descent: Descent, clean: Images, context: CraftContext) -> tuple[Tensor, float]:
        """The noise of all images in levels, and the mean objective at the last step."""
        workers, several = context.workers, context.workers.size > 1
        if several:
            descent = replace(descent, model=copy.deepcopy(descent.model).cpu())
        placed = clean if several else place(clean, context.device)
        shares = _shares(placed, self.batch_size, workers.size)
        results = workers.map(descend_share, descent, shares, device=context.device)
        mean = sum(result.objective for result in results) / len(clean)
        return torch.cat([result.levels for result in results]), mean


@dataclass(frozen=True)
class Descent:
    """One restart: what the noise descends."""

    poison: FixedNetworkNoise
    model: nn.Module  # in eval mode; its weights require no gradient
    recipe: TrainSpec
    num_classes: int
    seed: int
    restart: int

    def __call__(self, x: Tensor, labels: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """The noise of a batch of float images N,C,H,W, and its objective at the last step."""
        poison, gen = self.poison, generator(x.device, self.seed, STREAM, self.restart, batch)
        eps, size = (
            float(poison.eps),
            float(poison.usual_step * poison.eps if poison.step is None else poison.step),
        )
        noise = (torch.randn(x.shape, generator=gen, device=x.device) * eps).clamp(-eps, eps)
        y, value = F.one_hot(labels, self.num_classes).float(), torch.zeros((), device=x.device)
        for _ in range(poison.steps):
            z = (x + noise).clamp(0, 1).requires_grad_()
            with torch.enable_grad():
                seen: Tensor = z
                for augment in poison.augmentations:
                    seen, _ = augment(seen, y, gen)
                logits = self.model(seen.contiguous(memory_format=torch.channels_last))
                value = poison.objective(logits.float(), labels)
                (grad,) = torch.autograd.grad(value, z)
            noise = (z.detach() - x - size * grad.sign()).clamp(-eps, eps)
        return (x + noise).clamp(0, 1) - x, value.detach()


class Share(NamedTuple):
    """Whole batches from number `first` on."""

    first: int
    images: Images
    size: int


class Descended(NamedTuple):
    levels: Tensor
    objective: float  # the sum over images


def _shares(images: Images, size: int, number: int) -> Sequence[Share]:
    """At most `number` shares of whole batches."""
    batches = math.ceil(len(images) / size)
    bounds = [batches * i // number for i in range(number + 1)]
    return [
        Share(
            first,
            images if number == 1 else images.take(torch.arange(first * size, min(last * size, len(images)))),
            size,
        )
        for first, last in pairwise(bounds)
        if first < last
    ]


def descend_share(descent: Descent, share: Share, device: torch.device) -> Descended:
    """The noise of the images of a share, batch by batch on `device`, in levels."""
    model, found = descent.model.to(device), list[Tensor]()
    descent, total = replace(descent, model=model), torch.zeros((), dtype=torch.float64, device=device)
    with repeatable(), descent.recipe.autocast(device):
        for batch, some in enumerate(share.images.chunks(share.size), share.first):
            x = to_float(some.x.to(device)).contiguous(memory_format=torch.channels_last)
            noise, value = descent(x, some.y.to(device), batch)
            total += value
            found.append(whole_levels(noise.contiguous(), "signed", descent.poison.eps))
    return Descended(torch.cat(found), total.item())
