"""The crafting of robust error-minimising noise: steps of a generator, each on noise of its own, then the
noise of all images."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from typing_extensions import TypedDict

from poisons.base import CraftContext
from poisons.methods.em_noise import channels_last, pick
from poisons.perturbations.delta import whole_levels
from trainers.families import cross_entropy
from trainers.images import Images
from trainers.loop import DivergenceError, Training, generator, seeded, train_step
from trainers.meta import META
from trainers.pgd import input_gradient
from trainers.recipe import TrainSpec, one_thread
from trainers.stored import DamagedError, JsonFile
from trainers.tensor_files import check_like

if TYPE_CHECKING:
    from poisons.methods.rem import Rem

REM = 7497069  # first part of every random stream here, after the seed
WEIGHTS, SEARCH, TRAIN, FINAL = range(4)  # second part: the purpose
SECONDS = 5.0  # between reports of progress


def robust_gradient(
    model: nn.Module,
    recipe: TrainSpec,
    x: Tensor,
    noise: Tensor,
    y: Tensor,
    gen: torch.Generator,
    *,
    copies: int,
) -> Tensor:
    """The direction in which noise N,C,H,W on float images `x` raises the loss of a frozen model under
    attack.

    `copies` of each noisy image are augmented, each with its own draw, and attacked as by the recipe's
    defense. As published, the gradient at the adversarial points is passed back through the augmentations
    only, as if the points moved along with the copies, and it is 0 for values that are clipped to [0, 1].
    """
    noisy, y = x + noise, y.repeat(copies, 1)
    z = noisy.clamp(0, 1).requires_grad_()
    with torch.enable_grad():
        seen = z.repeat(copies, 1, 1, 1)
        for augment in recipe.augmentations:
            seen, _ = augment(seen, y, gen)
    with recipe.autocast(x.device):
        x_adv = recipe.defense.perturb(model, channels_last(seen.detach()), y, gen)
        grad = input_gradient(model, x_adv, y, cross_entropy)
    (grad,) = torch.autograd.grad(seen, z, grad)
    return grad * (z == noisy)


class Row(TypedDict):
    """The progress of a crafting: the generator's steps, the images whose noise is final, and the loss and
    accuracy of the last step on its batch."""

    step: PositiveInt
    images: NonNegativeInt
    loss: FiniteFloat
    accuracy: Annotated[FiniteFloat, Field(ge=0, le=1)]


class Progress(TypedDict):
    """The progress of a crafting in its checkpoint."""

    history: Annotated[list[Row], Field(min_length=1)]


PROGRESS = JsonFile[dict[str, Any]](Progress)


@dataclass
class Crafting:
    """The state of a crafting. `levels` are those of the first images, batch by batch; each is N,C,H,W."""

    poison: Rem
    clean: Images
    training: Training
    seed: int
    context: CraftContext
    step: int = 0
    levels: list[Tensor] = field(default_factory=list)
    recorded: float = field(default_factory=time.monotonic)

    @property
    def owner(self) -> str:
        return f"rem {self.poison.key}, seed {self.seed}"

    def resume(self) -> None:
        """Resume from the checkpoint if there is one, and it is intact; its rows are reported again."""
        checkpoint = self.context.checkpoint
        state = None if checkpoint is None else checkpoint.load(owner=self.owner)
        if checkpoint is None or state is None:
            return
        try:
            history = PROGRESS.check({"history": state.get("history")})["history"]
            self._check_levels(state.get("levels"), history[-1])
            self.training.load_state(state)
        except DamagedError as damage:
            checkpoint.reject(f"was damaged ({damage})")
            return
        self.training.history, self.step = history, history[-1]["step"]
        self.levels = [state["levels"].clone()]  # else it would keep the file's memory map
        for row in history:
            self.context.report(row)

    def _check_levels(self, levels: Any, last: Row) -> None:
        """Raises DamagedError unless these are the levels of this crafting when its progress was `last`."""
        poison, step, images, n = self.poison, last["step"], last["images"], len(self.clean)
        whole = images == n or (images < n and images % poison.batch_size == 0)
        if step > poison.train_steps or (images and step < poison.train_steps) or not whole:
            raise DamagedError(f"history: it has {step} steps and {images} images")
        dtype = torch.int16 if getattr(levels, "dtype", None) == torch.int16 else torch.int8
        check_like(levels, torch.empty((images, *self.clean.shape), dtype=dtype, device=META), "levels")
        if images and not -poison.limit <= int(levels.min()) <= int(levels.max()) <= poison.limit:
            raise DamagedError(f"levels: some are beyond {poison.limit}")

    def train(self) -> None:
        """The steps of the generator that are left."""
        self.training.model.train()
        while self.step < self.poison.train_steps:
            loss, right = self._train_step()
            self.step += 1
            if self._due() or self.step == self.poison.train_steps:
                self._check_finite(loss)
                values = {"loss": round(loss.item(), 6), "accuracy": round(right.item(), 4)}
                self._record({"step": self.step, "images": 0, **values})

    def _train_step(self) -> tuple[Tensor, Tensor]:
        """One step on the next batch with noise of its own, in whole levels; its loss, and the share of it
        that is classified correctly."""
        poison, training, device = self.poison, self.training, self.context.device
        epochs = poison.epochs(len(self.clean), seed=self.seed)
        epoch, at = divmod(self.step, epochs.batches)
        rows = epochs.epoch(epoch)[at]
        x, labels = pick(self.clean, rows, device)
        y = training.spec.targets(labels, self.clean.num_classes)
        noise = poison.noise(training, x, y, generator(device, self.seed, REM, SEARCH, self.step))
        levels = (noise * 255).round_().clamp_(-poison.limit, poison.limit)
        noisy = (x + levels / 255).clamp_(0, 1)
        gen = generator(device, self.seed, REM, TRAIN, self.step)
        lr = poison.optimizer.lr * poison.schedule.factor((self.step + 0.5) / poison.train_steps)
        with seeded(device, self.seed, REM, TRAIN, self.step), one_thread(device):
            loss, hits = train_step(training, training.model, noisy, y, gen, lr=lr)
        return loss, hits / len(rows)

    def finish(self) -> None:
        """The noise of all images that have none yet, for the trained generator."""
        device, last, n = self.context.device, self.training.history[-1], len(self.clean)
        for first in range(sum(map(len, self.levels)), n, self.poison.batch_size):
            rows = torch.arange(first, min(first + self.poison.batch_size, n))
            x, labels = pick(self.clean, rows, device)
            y = self.training.spec.targets(labels, self.clean.num_classes)
            noise = self.poison.noise(self.training, x, y, generator(device, self.seed, REM, FINAL, first))
            self.levels.append(whole_levels(noise.contiguous(), "signed", self.poison.eps))
            done = first + len(rows)
            if self._due() or done == n:
                self._record({**last, "images": done})

    def _due(self) -> bool:
        return time.monotonic() - self.recorded >= SECONDS

    def _record(self, row: dict[str, Any]) -> None:
        """Report progress, and save it when that is due."""
        self.training.history.append(row)
        self.context.report(row)
        self.recorded, checkpoint = time.monotonic(), self.context.checkpoint
        if checkpoint is not None and checkpoint.due():
            levels = torch.cat([torch.empty((0, *self.clean.shape), dtype=torch.int8), *self.levels])
            checkpoint.save(self.training.state() | {"levels": levels}, owner=self.owner)

    def _check_finite(self, loss: Tensor) -> None:
        """Raises DivergenceError unless the loss, the weights and the running statistics are finite."""
        state = self.training.model.state_dict().values()
        values = [loss, *(value for value in state if value.is_floating_point())]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            what = f"the generator diverged within {self.step} steps; try a smaller optimizer.lr"
            raise DivergenceError(what, self.training.history)
