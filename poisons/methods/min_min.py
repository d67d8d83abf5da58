"""The crafting loop of noise for a network that is trained meanwhile: in each round the network learns from
the noisy images, then the noise descends an objective of that network."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import FiniteFloat
from typing_extensions import TypedDict

from poisons.base import CraftContext, Poison
from poisons.methods.em_noise import CPU, EM, Noise
from poisons.perturbations.delta import Delta
from trainers.feed import place
from trainers.images import Extent, Images
from trainers.loop import DivergenceError, Training, generator, memory_for
from trainers.precision import Arithmetic, BatchSizes, batch_sizes, resolve
from trainers.recipe import TrainSpec, one_thread, repeatable
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile
from trainers.tensor_files import check_like

WEIGHTS = 3  # the stream of the network's initial weights
FIELD = "batch_size of the poison"


class MinMinNoise(Poison):
    """Noise and a network that take turns. Subclasses say how each of them moves, and when to end."""

    wants_gpu: ClassVar[bool] = True
    needs: ClassVar[str] = "a network trained meanwhile"
    bound: ClassVar[str] = "Linf eps"

    @abstractmethod
    def _recipe(self) -> TrainSpec:
        """How the network is trained; its architecture's own recipe is not used."""

    @abstractmethod
    def _begin(self, clean: Images, seed: int, context: CraftContext) -> Noise:
        """The noise before the first round."""

    @abstractmethod
    def _ended(self, training: Training) -> bool:
        """Whether the rounds so far, the history of the training, are enough."""

    @abstractmethod
    def _train(
        self, training: Training, clean: Images, noise: Noise, seed: int, device: torch.device
    ) -> None:
        """Train the network for one round on the noisy images."""

    @abstractmethod
    def _descend(self, training: Training, noise: Noise, seed: int, context: CraftContext) -> float:
        """Update the noise; the network's error on the noisy images after it. DivergenceError if the network
        gives numbers that are not finite."""

    @abstractmethod
    def _delta(self, noise: Noise, facts: dict[str, Any]) -> Delta:
        """The noise in whole levels."""

    def check(self, clean: Extent) -> None:
        if not clean.images:
            raise InputError(f"{self.kind}: noise is crafted from images, and there are none")
        self._recipe().check(clean)

    def noise_size(self, recipe: TrainSpec) -> int:
        """Images of one step of the noise."""
        return recipe.batch_size

    def _shared(self, context: CraftContext) -> bool:
        """Whether worker processes take part; tensors are then on the host."""
        return False

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """DivergenceError if the network's weights or loss are no longer finite."""
        self.check(clean.extent)
        device, checkpoint, owner = context.device, context.checkpoint, f"{self.kind} {self.key}, seed {seed}"
        recipe = self._recipe()
        named = memory_for(recipe.architecture.kind, recipe.batch_size, clean, device, field=FIELD)
        with repeatable(), named:
            clean = clean.to(CPU) if self._shared(context) else place(clean, device)
            # differs from `seed` itself, so that no victim starts from these weights
            weights = generator(CPU, seed, EM, WEIGHTS).initial_seed()
            noise = self._begin(clean, seed, context)
            moved = batch_sizes(len(noise.images), self.noise_size(recipe))
            arithmetic = noise_arithmetic(recipe, clean, moved, device, self.kind)
            recipe = recipe.model_copy(update={"precision": arithmetic.precision})
            training = Training.begin(recipe, clean, seed=weights, device=device)
            if checkpoint is not None and (state := checkpoint.load(owner=owner)) is not None:
                try:
                    _resume(training, noise, state)
                except DamagedError as damage:
                    checkpoint.reject(f"was damaged ({damage})")
            for row in training.history:
                context.report(row)
            while not self._ended(training):
                start = time.monotonic()
                self._train(training, clean, noise, seed, device)
                error = self._descend(training, noise, seed, context)
                seconds = round(time.monotonic() - start, 3)
                training.history.append(
                    {"round": len(training.history) + 1, "error": error, "seconds": seconds}
                )
                context.report(training.history[-1])
                if checkpoint is not None and checkpoint.due():
                    checkpoint.save(training.state() | {"noise": noise.values}, owner=owner)
        facts: dict[str, Any] = {"rounds": training.history, "precision": arithmetic.precision}
        facts |= {"precision_fallback": arithmetic.fallback} if arithmetic.fallback else {}
        return self._delta(noise, facts)


class Round(TypedDict):
    """A round of crafting, in a record and in a checkpoint."""

    round: int
    error: FiniteFloat
    seconds: FiniteFloat


class RoundsSoFar(TypedDict):
    """The progress of a crafting in its checkpoint."""

    history: list[Round]


ROUNDS_SO_FAR = JsonFile[dict[str, Any]](RoundsSoFar)


def diverged(training: Training) -> DivergenceError:
    """The network of this round gives numbers that are not finite."""
    number = len(training.history) + 1
    what = f"the generator diverged in round {number}; try a smaller optimizer.lr"
    return DivergenceError(what, training.history)


def noise_arithmetic(
    recipe: TrainSpec, clean: Images, moved: frozenset[int], device: torch.device, kind: str
) -> Arithmetic:
    """The arithmetic of the network of the poison `kind`, checked for its own steps and for batches of noise
    of the sizes `moved`."""

    def on(sizes: BatchSizes) -> Arithmetic:
        return resolve(
            recipe,
            shape=clean.shape,
            num_classes=clean.num_classes,
            sizes=sizes,
            device=device,
            field=f"precision of the poison {kind}",
        )

    with one_thread(device):
        trained = on(BatchSizes(training=batch_sizes(len(clean), recipe.batch_size)))
    return trained if trained.fallback else on(BatchSizes(attack=moved))


def _resume(training: Training, noise: Noise, state: dict[str, Any]) -> None:
    """Resume from the state of a checkpoint. Raises DamagedError, and changes nothing, if it does not belong
    to this crafting."""
    ROUNDS_SO_FAR.check({"history": state.get("history")})
    check_like(state.get("noise"), noise.values, "noise")
    training.load_state(state)
    training.history = list(state["history"])
    noise.values.copy_(state["noise"])
