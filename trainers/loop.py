"""The training loop, the only one: a spec, images and a seed in, a trained network and its history out."""

from __future__ import annotations

import copy
import hashlib
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn
from typing_extensions import TypedDict

from trainers.average import Average
from trainers.checkpoint import Checkpoint
from trainers.evaluate import BATCH, accuracy
from trainers.families import Defense, Metrics, Report
from trainers.features import freeze, head_of
from trainers.feed import feed, place
from trainers.images import Images
from trainers.numerical_platform import PlatformRecord, numerical_platform
from trainers.precision import Arithmetic, BatchSizes, batch_sizes, resolve
from trainers.probe import Row, Watch
from trainers.recipe import TrainSpec, repeatable
from trainers.restoration import RestorationContext, restore
from trainers.start import Kept, Task, Weights, begin_from
from trainers.stored import DamagedError, JsonFile
from trainers.strided import subsample_first
from trainers.tensor_files import check_weights

MEMORY = re.compile(
    "out of memory|allocate memory|ALLOC_FAILED|ALLOCATION_FAILED"
)  # torch, CUDA, cuBLAS, cuDNN
PREPARATION = 2  # the random stream of a defense's preparation


class DivergenceError(ArithmeticError):
    """The loss or a weight is not finite. `history` holds the epochs before."""

    def __init__(self, message: str, history: Sequence[Metrics] = ()) -> None:
        super().__init__(message)
        self.history = tuple(history)


class OutOfMemoryError(MemoryError):
    """The device does not have enough memory for this training."""


@dataclass(frozen=True)
class Trained:
    """A trained network, a row of metrics per epoch, and the training time, including that before a
    resumption. `watched` holds the rows of each watch, one per epoch; `images` are those that it was trained
    on, after its defense prepared them."""

    model: nn.Module
    images: Images
    history: list[Metrics]
    seconds: float
    watched: dict[str, list[Row]] = field(default_factory=dict)
    platforms: tuple[PlatformRecord, ...] = ()  # that it was trained on, in order


class Progress(TypedDict):
    """The progress of a training in its checkpoint."""

    history: list[dict[str, FiniteFloat]]
    watched: NotRequired[dict[str, list[dict[str, FiniteFloat]]]]
    seconds: Annotated[FiniteFloat, Field(ge=0)]
    platforms: NotRequired[list[dict[str, str | int | bool | None]]]


PROGRESS = JsonFile[dict[str, Any]](Progress)
PROGRESS_FIELDS = ("history", "watched", "seconds", "platforms")


@dataclass
class Training:
    """The state of a training: everything that a checkpoint holds."""

    spec: TrainSpec
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    watched: dict[str, list[Row]] = field(default_factory=dict)
    history: list[Metrics] = field(default_factory=list)
    seconds: float = 0.0
    platforms: list[PlatformRecord] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        spec: TrainSpec,
        images: Images,
        *,
        seed: int,
        device: torch.device,
        start: Weights | None = None,
        watched: Iterable[str] = (),
    ) -> Training:
        """The state before the first step. `start` are initial weights that replace those drawn from `seed`;
        `watched` are the names of the watches."""
        model = spec.network(num_classes=images.num_classes, shape=images.shape, seed=seed)
        if start is not None:
            begin_from(start, model, head=head_of(model, images), source="start")
        if not spec.trains_all:
            freeze(model, images)
        if device.type == "cpu":
            subsample_first(model)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = None if spec.ema is None else Average(model, spec.ema)
        return cls(spec, model, spec.optimizer.build(model), average, {name: [] for name in watched})

    @property
    def eval_model(self) -> nn.Module:
        """The network to evaluate: the average of the weights if there is one."""
        return self.model if self.average is None else self.average.model

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "history": self.history,
            "watched": self.watched,
            "seconds": self.seconds,
            "platforms": self.platforms,
        }

    def record_epoch(self, row: Metrics, watches: Mapping[str, Watch], device: torch.device) -> None:
        """Record an epoch's row, and the row that each watch returns for it."""
        with self.spec.autocast(device):
            observed = {name: watch(self.eval_model, dict(row)) for name, watch in watches.items()}
        self.history.append(row)
        for name, values in observed.items():
            self.watched[name].append(values)

    def record_platform(self, platform: PlatformRecord) -> None:
        """Record the platform that computes the next epochs."""
        if not self.platforms or self.platforms[-1] != platform:
            self.platforms.append(platform)

    def resume(self, checkpoint: Checkpoint, owner: str) -> None:
        """Resume from the checkpoint if there is one, it is intact, and it has every watch's row of every
        epoch; else start from the beginning."""
        if (state := checkpoint.load(owner=owner)) is None:
            return
        try:
            progress = PROGRESS.check({name: state[name] for name in PROGRESS_FIELDS if name in state})
            if not self.watched.keys() <= progress.get("watched", {}).keys():
                checkpoint.reject("lacks what probes watch")
                return
            known = {name: list(state["watched"][name]) for name in self.watched}
            epochs = len(progress["history"])
            if epochs > self.spec.epochs or any(len(rows) != epochs for rows in known.values()):
                raise DamagedError(f"it has {epochs} epochs, and some of its rows do not match them")
            self.load_state(state)
        except DamagedError as error:
            checkpoint.reject(f"was damaged ({error})")
            return
        self.history, self.seconds = list(state["history"]), state["seconds"]
        self.platforms, self.watched = list(state.get("platforms", ())), known

    def load_state(self, state: dict[str, Any]) -> None:
        """Load weights, optimizer and average from a checkpoint's state. Raises DamagedError, and changes
        nothing, if they do not fit this network."""
        weights = check_weights(state.get("model"), self.model)
        check_optimizer(state.get("optimizer"), self.optimizer)
        if self.average is not None:
            average = state.get("average")
            if not isinstance(average, dict) or type(average.get("begun")) is not bool:
                raise DamagedError("average: it holds no average of the weights")
            check_weights(average.get("model"), self.average.model)
            self.average.restore(average)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(
            copy.deepcopy(state["optimizer"])
        )  # else it would keep the file's memory map


def check_optimizer(found: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raises DamagedError unless `found` is a state of this optimizer: the same groups and settings, and for
    each parameter finite numbers or tensors of its shape."""
    groups = found.get("param_groups") if isinstance(found, dict) else None
    wanted = optimizer.state_dict()["param_groups"]
    if (
        not isinstance(groups, list)
        or not all(map(_same_group, groups, wanted))
        or len(groups) != len(wanted)
    ):
        raise DamagedError("optimizer: its groups are not those of this optimizer")
    if not isinstance(found.get("state"), dict):
        raise DamagedError("optimizer: it has no state")
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    for number, state in found["state"].items():
        if type(number) is not int or not 0 <= number < len(shapes) or not isinstance(state, dict):
            raise DamagedError("optimizer: its state is that of other parameters")
        for name, value in state.items():
            if not _fits(value, shapes[number]):
                raise DamagedError(f"optimizer: {str(name)[:40]} of parameter {number} does not fit it")


def _same_group(found: Any, wanted: dict[str, Any]) -> bool:
    """Whether two parameter groups have the same settings, apart from the learning rate, which changes."""
    names = wanted.keys() - {"lr", "initial_lr"}
    return isinstance(found, dict) and all(name in found and found[name] == wanted[name] for name in names)


def _fits(value: Any, shape: torch.Size) -> bool:
    """Whether this is valid optimizer state for a parameter of that shape."""
    if isinstance(value, Tensor):
        return value.shape in (shape, torch.Size(())) and bool(value.isfinite().all())
    return value is None or isinstance(value, int | float)


def fit(
    spec: TrainSpec,
    train: Images,
    test: Images,
    *,
    seed: int,
    device: torch.device,
    report: Report = lambda _: None,
    checkpoint: Checkpoint | None = None,
    watches: Mapping[str, Watch] | None = None,
    start: Weights | None = None,
    arithmetic: Arithmetic | None = None,
    restored: bool = False,
) -> Trained:
    """Train on `train`, evaluate on `test` after every epoch. `report` receives each epoch's row, including
    those before a resumption. Each of `watches` is called after every epoch and changes nothing. `start`, a
    state_dict, are the initial weights (default: those of the spec, or drawn from `seed`). `arithmetic` is
    the resolved `spec.precision` (default: resolved for these images). `restored` says that the restoration
    of the spec's defense has restored `train` already.

    Equal arguments give equal results on equal numerical platforms, bit for bit on a CPU and as far as
    kernels are deterministic on a GPU, even if the training was killed and resumed from `checkpoint`. Each
    epoch has its own random generators. Raises DivergenceError, naming epoch and batch, when the loss is no
    longer finite; OutOfMemoryError; and InputError for a precision that the device computes wrongly.
    """
    spec = spec.pinned()
    owner = f"{spec.key}, seed {seed}"
    with memory_named(spec, train, device), repeatable():
        images = prepared(spec, train, seed=seed, device=device, restored=restored)
        train, test = place(images, device), place(test, device)
        arithmetic = arithmetic or arithmetic_of(spec, train, test, device)
        spec = spec.model_copy(update={"precision": arithmetic.precision})
        watches = watches or {}
        start = initial_weights(spec, train) if start is None else start
        training = Training.begin(spec, train, seed=seed, device=device, start=start, watched=watches)
        if checkpoint is not None:
            training.resume(checkpoint, owner)
        training.record_platform(numerical_platform(device).to_json())
        for row in training.history:
            report(row)
        forward = compiled(spec, training.model)
        for epoch in range(len(training.history) + 1, spec.epochs + 1):
            begun = time.monotonic()
            row = {"epoch": float(epoch)}
            row |= train_epoch(training, forward, train, epoch=epoch, seed=seed, device=device)
            with spec.autocast(device):
                row["test/clean_acc"] = accuracy(spec.defense.deployed(training.eval_model), test, device)
            training.seconds += time.monotonic() - begun
            training.record_epoch(row, watches, device)
            report(row)
            if checkpoint is not None and checkpoint.due():
                checkpoint.save(training.state(), owner=owner)
    return Trained(
        training.eval_model,
        images,
        training.history,
        training.seconds,
        training.watched,
        tuple(training.platforms),
    )


def initial_weights(spec: TrainSpec, images: Images, kept: Kept | None = None) -> Weights | None:
    """The weights that the start of a spec names; None if it names none. `kept` gives those of other
    trials."""
    if spec.start is None:
        return None
    return spec.start.weights(Task(spec.architecture, images.shape, images.num_classes), kept)


def prepared(
    spec: TrainSpec,
    images: Images,
    *,
    seed: int,
    device: torch.device,
    restored: bool = False,
    report: Report = lambda _: None,
) -> Images:
    """The images that a training of `spec` on `images` is trained on: what its defense makes of them, its
    restoration too unless they are `restored` already. `report` is given the progress of the preparation;
    `fit` reports epochs only."""
    gen = generator(torch.device("cpu"), seed, 0, PREPARATION)
    if not restored:
        images = restore(spec.defense, images, RestorationContext(device, report=report))
    return spec.defense.prepare(images, device=device, gen=gen, report=report)


def arithmetic_of(
    spec: TrainSpec, train: Images, test: Images, device: torch.device, *, attacked: int = 0
) -> Arithmetic:
    """`spec.precision` resolved on `device`, for a training on `train`, its evaluation on both sets, and an
    attack on `attacked` images. InputError for an explicit bfloat16 that is computed wrongly."""
    sizes = BatchSizes(
        training=batch_sizes(len(train), spec.batch_size),
        attack=batch_sizes(attacked, spec.batch_size),
        evaluation=batch_sizes(len(train), BATCH) | batch_sizes(len(test), BATCH),
    )
    return resolve(spec, shape=train.shape, num_classes=train.num_classes, sizes=sizes, device=device)


def train_epoch(
    training: Training,
    forward: nn.Module,
    train: Images,
    *,
    epoch: int,
    seed: int,
    device: torch.device,
) -> Metrics:
    """One pass over `train` in a new random order; the mean loss and accuracy on the training batches. The
    host synchronises with the device once, at the end."""
    spec = training.spec
    gen = generator(device, seed, epoch)
    order = torch.randperm(len(train), generator=gen, device=device)
    steps, defense = math.ceil(len(train) / spec.batch_size), spec.defense.at(epoch / spec.epochs)
    loss_sum, right, bad = torch.zeros(3, device=device).unbind()
    bad += steps
    training.model.train(spec.trains_all)  # frozen features keep their running statistics
    with seeded(device, seed, epoch, 1):
        for i, (x, labels) in enumerate(feed(train, spec.batch_size, device, order)):
            lr = spec.optimizer.lr * spec.schedule.factor((epoch - 1 + (i + 0.5) / steps) / spec.epochs)
            y = spec.targets(labels, train.num_classes)
            loss, hits = train_step(training, forward, x, y, gen, lr=lr, defense=defense)
            loss_sum += loss * len(x)
            right += hits
            bad.clamp_(max=torch.where(loss.isfinite(), steps, i))
    _check(training, epoch=epoch, batch=int(bad.item()), steps=steps)
    return {"train/loss": loss_sum.item() / len(train), "train/acc": right.item() / len(train), "lr": lr}


def _check(training: Training, *, epoch: int, batch: int, steps: int) -> None:
    """Raises DivergenceError if the loss of a batch (`batch` is the first such) or a weight is not finite."""
    finite = torch.stack([p.isfinite().all() for p in training.model.parameters()]).all()
    if batch == steps and finite.item():
        return
    what = f"loss was not finite in epoch {epoch}, batch {batch + 1} of {steps}"
    if batch == steps:
        what = f"loss stayed finite, but some weights were not after epoch {epoch}, batch {steps} of {steps}"
    raise DivergenceError(
        f"the training {what}; try a smaller optimizer.lr, or clip_norm: 1.0", training.history
    )


def train_step(
    training: Training,
    forward: nn.Module,
    x: Tensor,
    y: Tensor,
    gen: torch.Generator,
    *,
    lr: float,
    defense: Defense | None = None,
) -> tuple[Tensor, Tensor]:
    """One step on one batch; its mean loss and number of correct predictions, both on the device. `defense`
    is that of this epoch (default: the spec's)."""
    spec, optimizer = training.spec, training.optimizer
    defense, before = defense or spec.defense, spec.before_attack
    torch.clear_autocast_cache()  # an enclosing autocast caches casts of weights that have changed since
    for augment in spec.augmentations[:before]:
        x, y = augment(x, y, gen)
    with spec.autocast(x.device):
        x = defense.perturb(forward, x.contiguous(memory_format=torch.channels_last), y, gen)
        for augment in spec.augmentations[before:]:
            x, y = augment(x, y, gen)
        loss, logits = defense.loss(forward, x.contiguous(memory_format=torch.channels_last), y, gen)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if spec.clip_norm is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), spec.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    if training.average is not None:
        training.average.update(training.model)
    return loss.detach(), (logits.detach().argmax(1) == y.argmax(1)).sum()


def compiled(spec: TrainSpec, model: nn.Module) -> nn.Module:
    """The model in the execution mode of the spec; it shares the weights. Raises torch's
    FailOnRecompileLimitHit rather than run without compilation because too many graphs were compiled."""
    if spec.execution == "eager":
        return model
    torch._dynamo.reset()  # the graphs of earlier trainings count too
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    mode = "reduce-overhead" if spec.execution == "cuda_graphs" else "default"
    return torch.compile(model, mode=mode, dynamic=False)  # type: ignore[return-value]


def generator(device: torch.device, *parts: int) -> torch.Generator:
    """A random generator on `device`, seeded by `parts`, such as (seed, epoch)."""
    return torch.Generator(device).manual_seed(_stream(*parts))


@contextmanager
def seeded(device: torch.device, *parts: int) -> Iterator[None]:
    """Within the block the global generators, which dropout draws from, are seeded by `parts`; their state is
    restored afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(_stream(*parts))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_stream(*parts))
        yield


def _stream(*parts: int) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def memory_named(spec: TrainSpec, images: Images, device: torch.device) -> AbstractContextManager[None]:
    """`memory_for` of a training."""
    return memory_for(spec.architecture.kind, spec.batch_size, images, device)


@contextmanager
def memory_for(
    network: str, batch_size: int, images: Images, device: torch.device, *, field: str = "train.batch_size"
) -> Iterator[None]:
    """Turns a failed allocation into an OutOfMemoryError that says what needed the memory and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not MEMORY.search(str(error)):
            raise
        size = "x".join(map(str, images.shape))
        raise OutOfMemoryError(
            f"out of memory on {device}, with batch_size {batch_size} of {size} images in a {network}: "
            f"try {field} {max(1, batch_size // 2)} "
            "(and a learning rate to match), or give each trial more of the device (run.gpus_per_trial: 1)"
        ) from error


def summary(history: list[Metrics]) -> Metrics:
    """The last row's metrics, with the peak of the clean test accuracy and the first epoch that reached
    it."""
    peak = max(history, key=lambda row: row["test/clean_acc"])
    last = {name: value for name, value in history[-1].items() if name not in ("epoch", "lr")}
    return {**last, "test/peak_clean_acc": peak["test/clean_acc"], "test/peak_epoch": peak["epoch"]}
