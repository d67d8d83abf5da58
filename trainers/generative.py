"""The training of generative networks, which learn to make images: one stage after the other, resumable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn
from typing_extensions import TypedDict

from trainers.average import Average
from trainers.feed import feed, place
from trainers.images import Images, nearest_levels, to_float
from trainers.loop import DivergenceError, check_optimizer, generator, memory_for
from trainers.recipe import one_thread, repeatable
from trainers.restoration import Restoration, RestorationContext
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile
from trainers.tensor_files import check_like, check_weights

STREAM = 71  # first part of every random stream here, after the seed
ORDER, WEIGHTS, USE = range(3)  # second part: the purpose
Loss = Callable[[Any, Tensor, Tensor, torch.Generator, int], Tensor]


class Row(TypedDict):
    """An epoch of a stage."""

    stage: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=1)]
    loss: FiniteFloat


class Rows(TypedDict):
    """The progress of the stages in a checkpoint."""

    rows: list[Row]


ROWS = JsonFile[dict[str, Any]](Rows)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a generative network is trained: Adam, at a constant rate or one that falls as a cosine. Incomplete
    batches are left out, unless there is no other. `prefix` begins the names of these settings in the
    defense."""

    prefix: str
    epochs: int
    batch_size: int
    lr: float
    grad_norm: float
    cosine: bool = False
    ema: float | None = None

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.lr * (0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / self.epochs) if self.cosine else 1.0)


@dataclass
class Stages:
    """The networks of a restoration, trained one after the other. A checkpoint holds the stage at work, and
    the images that it works on unless they are those to restore, so that a killed restoration resumes."""

    restoration: Restoration
    context: RestorationContext
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._state: dict[str, Any] = {}
        checkpoint = self.context.checkpoint
        state = None if checkpoint is None else checkpoint.load(owner=self.owner)
        if state is None:
            return
        try:
            ROWS.check({"rows": state.get("rows")})
            self._state, self.rows = dict(state), list(state["rows"])
        except DamagedError as error:
            self._reject(error)

    @property
    def owner(self) -> str:
        return f"{self.restoration.kind} {self.restoration.key}, seed {self.context.seed}"

    def kept(self, stage: int, like: Images) -> Images | None:
        """The images that `stage` works on, which are like those given, if the checkpoint is of that
        stage."""
        if not self._of(stage):
            return None
        try:
            check_like(self._state.get("x"), like.x, "x")
        except DamagedError as error:
            self._reject(error)
            self.rows = []
            return None
        return Images(self._state["x"], like.y, like.num_classes)

    def seed(self, stage: int) -> int:
        """The seed of a stage's initial weights."""
        return generator(torch.device("cpu"), self.context.seed, STREAM, WEIGHTS, stage).initial_seed()

    def generator(self, stage: int) -> torch.Generator:
        """A random generator on the device, for the use of a trained network."""
        return generator(self.context.device, self.context.seed, STREAM, USE, stage)

    def train(
        self, stage: int, net: nn.Module, images: Images, loss: Loss, recipe: Recipe, *, keep: bool = False
    ) -> nn.Module:
        """The network (or the average of its weights), in eval mode, after its training on `images`, which
        checkpoints hold if `keep`. `loss(net, x, labels, gen, epoch)` is that of a batch of float `x` N,C,H,W
        in [0, 1]. DivergenceError, OutOfMemoryError, and InputError if there are no images."""
        device, kind, size = self.context.device, self.restoration.kind, min(recipe.batch_size, len(images))
        if not size:
            raise InputError(f"{kind}: there are no images to learn from")
        with self.used(images, recipe), one_thread(device):
            training = _Training(net.to(device), recipe)
            first, placed = self._resumed(stage, training), place(images, device)
            used = len(images) // size * size
            for epoch in range(first, recipe.epochs + 1):
                gen = generator(device, self.context.seed, STREAM, ORDER, stage, epoch)
                order = torch.randperm(len(images), generator=gen, device=device)[:used]
                mean = training.epoch(feed(placed, size, device, order), loss, gen, epoch)
                if not math.isfinite(mean):
                    what = f"{kind}: the loss of stage {stage} was not finite in epoch {epoch}"
                    raise DivergenceError(f"{what}; try a smaller {recipe.prefix}lr", self.rows)
                self.rows.append({"stage": stage, "epoch": epoch, "loss": round(mean, 6)})
                self.context.report(self.rows[-1])
                self._save(training, images if keep else None)
        return training.result

    @torch.no_grad()
    def applied(
        self, stage: int, images: Images, size: int, change: Callable[[Tensor, torch.Generator], Tensor]
    ) -> Images:
        """The images as `change` leaves float batches N,C,H,W in [0, 1] of `size` of them, on the device. A
        checkpoint holds those that are done, instead of a training: what has trained the network keeps it."""
        gen, checkpoint = self.generator(stage), self.context.checkpoint
        done = self._done(images, gen)
        for first in range(sum(map(len, done)), len(images), size):
            x = to_float(images.x[first : first + size].to(self.context.device))
            done.append(nearest_levels(change(x, gen)).cpu())
            self.context.report({"restored": round((first + len(x)) / len(images), 3)})
            if checkpoint is not None and checkpoint.due():
                done = [torch.cat(done)]
                state = {"restored": done[0], "random": gen.get_state(), "rows": self.rows}
                checkpoint.save(state, owner=self.owner)
        return Images(torch.cat(done), images.y, images.num_classes)

    def _done(self, images: Images, gen: torch.Generator) -> list[Tensor]:
        """The images that an earlier attempt restored, after which `gen` goes on; none without one."""
        if "restored" not in self._state:
            return []
        done = self._state["restored"]
        try:
            check_like(done, images.x[: len(done) if isinstance(done, Tensor) else 0], "restored")
            check_like(self._state.get("random"), gen.get_state(), "random")
        except DamagedError as error:
            self._reject(error)
            return []
        gen.set_state(self._state["random"])
        return [done]

    @contextmanager
    def used(self, images: Images, recipe: Recipe) -> Iterator[None]:
        """A block in which a network is trained on images, or used on them: it repeats its results as far as
        kernels allow, and a failed allocation has a name."""
        kind, size = self.restoration.kind, min(recipe.batch_size, len(images))
        field = f"{recipe.prefix}batch_size of {kind}"
        with memory_for(kind, size, images, self.context.device, field=field), repeatable():
            yield

    def _of(self, stage: int) -> bool:
        """Whether the checkpoint is of that stage."""
        return bool(self._state) and bool(self.rows) and self.rows[-1]["stage"] == stage

    def _resumed(self, stage: int, training: _Training) -> int:
        """The next epoch of a stage, after loading what the checkpoint has of it."""
        if not self._of(stage):
            return 1
        try:
            training.load(self._state)
        except DamagedError as error:
            self.rows = [row for row in self.rows if row["stage"] < stage]
            self._reject(error)
            return 1
        for row in self.rows:
            self.context.report(row)
        return int(self.rows[-1]["epoch"]) + 1

    def _save(self, training: _Training, images: Images | None) -> None:
        checkpoint = self.context.checkpoint
        if checkpoint is not None and checkpoint.due():
            kept = {} if images is None else {"x": images.x}
            checkpoint.save({**training.state(), **kept, "rows": self.rows}, owner=self.owner)

    def _reject(self, why: DamagedError) -> None:
        if self.context.checkpoint is not None:
            self.context.checkpoint.reject(f"was damaged ({why})")
        self._state = {}


class _Training:
    """The training of one network."""

    def __init__(self, net: nn.Module, recipe: Recipe) -> None:
        self.net, self.recipe = net.train(), recipe
        self.optimizer = torch.optim.Adam(net.parameters(), lr=recipe.lr)
        self.average = None if recipe.ema is None else Average(net, recipe.ema)

    @property
    def result(self) -> nn.Module:
        return (self.net if self.average is None else self.average.model).eval()

    def epoch(
        self, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss, gen: torch.Generator, number: int
    ) -> float:
        """The mean loss of an epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(number)
        losses = []
        for x, labels in batches:
            value = loss(self.net, x, labels, gen, number)
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.grad_norm)
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.net)
            losses.append(value.detach())
        return torch.stack(losses).mean().item()

    def state(self) -> dict[str, Any]:
        average = None if self.average is None else self.average.state()
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average}

    def load(self, state: dict[str, Any]) -> None:
        """Raises DamagedError, and changes nothing, if it is the state of another network."""
        weights, average = check_weights(state.get("net"), self.net), state.get("average")
        check_optimizer(state.get("optimizer"), self.optimizer)
        if self.average is not None:
            if not isinstance(average, dict) or type(average.get("begun")) is not bool:
                raise DamagedError("average: it holds no average of the weights")
            check_weights(average.get("model"), self.average.model)
            self.average.restore(average)
        self.net.load_state_dict(weights)
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
