"""A few real training steps on random images: how fast a device trains, how much memory a training takes, and
how busy it keeps a GPU.

Measurement and arithmetic are separate, so that the arithmetic and the steps can be tested without a GPU.
`profile_trial` itself runs only on a GPU, since it reads CUDA's memory and kernel times.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.architectures.resnet import ResNet18
from trainers.evaluate import BATCH, correct
from trainers.feed import feed, place
from trainers.flops import Shape, Work, network_flops, over
from trainers.images import Images
from trainers.loop import (
    Training,
    arithmetic_of,
    compiled,
    generator,
    memory_named,
    prepared,
    train_step,
)
from trainers.precision import BatchSizes, failures
from trainers.recipe import Precision, TrainSpec, repeatable
from trainers.spec import InputError
from trainers.trial import Trial

WARM_UP = 3  # warm-up steps, not timed: the first one selects algorithms and allocates memory
STEPS = 8  # timed steps
TINY = 1e-15  # seconds per value where the measurements leave none
MOST_STEPS = 50  # of one network, when the speed of a device is measured
Clock = Callable[[], float]


@dataclass(frozen=True)
class GpuProfile:
    """What one trial alone uses of a GPU: peak reserved bytes, the share of time in (0, 1] in which the GPU
    computes, and the seconds of a step."""

    peak_bytes: int
    busy: float
    step_seconds: float


def profile_from(*, peak_bytes: int, kernel_seconds: float, wall_seconds: float, steps: int) -> GpuProfile:
    """A profile from measurements. Kernels may overlap, so `busy` is capped at 1. If no kernel time was
    measured, the GPU counts as fully busy, which is the safe assumption for sharing it."""
    busy = min(1.0, kernel_seconds / wall_seconds) if kernel_seconds > 0 else 1.0
    return GpuProfile(peak_bytes, busy, wall_seconds / steps)


def profile_trial(
    trial: Trial, train_shape: Shape, num_classes: int, n: int, device: torch.device
) -> GpuProfile:
    """Train `trial` for a few steps on `n` random images and evaluate one evaluation batch, in a process that
    holds nothing else on the GPU. Attacks are left out: they use the batch size of the training and need no
    gradients of weights.

    InputError on anything but a GPU; OutOfMemoryError if the whole GPU is too small.
    """
    if device.type != "cuda":
        raise InputError(f"a profile measures what a trial uses of a GPU, and {device} is none: use cuda:0")
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    host = random_images(n, train_shape, num_classes)
    with memory_named(trial.train, host, device), repeatable():
        images = place(prepared(trial.train, host, seed=0, device=device, restored=True), device)
        some = images.take(torch.arange(min(n, BATCH), device=images.y.device))
        arithmetic = arithmetic_of(trial.train, images, some, device)
        spec = trial.train.model_copy(update={"precision": arithmetic.precision})
        training = Training.begin(spec, images, seed=0, device=device)
        steps = training_steps(training, images, device)
        advance(steps, WARM_UP, device)
        wall = advance(steps, STEPS, device)
        with arithmetic.autocast(device):
            correct(training.eval_model.eval(), some, device)
        training.model.train()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            advance(steps, STEPS, device)
        kernels = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
        peak = torch.cuda.max_memory_reserved(device)
    return profile_from(peak_bytes=peak, kernel_seconds=kernels, wall_seconds=wall, steps=STEPS)


@dataclass(frozen=True)
class Speed:
    """What a device does in a second: floating-point operations, values that kernels write, kernels that run.
    Wide networks are limited by operations, narrow ones by memory and by kernel launches."""

    flops: float
    values: float = math.inf
    kernels: float = math.inf

    def seconds(self, work: Work) -> float:
        """The seconds that this work takes, without overlap."""
        return work.flops / self.flops + work.values / self.values + work.kernels / self.kernels


@dataclass(frozen=True)
class Timed:
    """One training step: its work, and its seconds."""

    work: Work
    seconds: float


# width of a ResNet-18, batch size, pixels: a step limited by launches, by memory, by operations
ON_CPU = ((4, 8, 16), (8, 64, 32), (32, 32, 32))
ON_GPU = ((4, 8, 16), (16, 128, 32), (64, 128, 32))


def training_speed(
    device: torch.device, precision: Precision, *, threads: int = 1, seconds: float = 0.25
) -> Speed:
    """The training speed of `device`, from real steps of three ResNet-18s; each takes about `seconds` plus
    one step. On a CPU the time of the `threads` themselves is measured, so that other load on the machine
    does not change the result."""
    gpu = device.type == "cuda"
    with _threads(threads), repeatable():
        narrow, thin, wide = (
            _time_a_step(device, precision, *shape, threads=threads, seconds=seconds)
            for shape in (ON_GPU if gpu else ON_CPU)
        )
    return speed(narrow, thin, wide)


def speed(narrow: Timed, thin: Timed, wide: Timed) -> Speed:
    """The speed that explains the times of these steps. The narrow step is assumed to take only kernel
    launches; the time of the other two beyond their launches is split between values and operations."""
    kernel = narrow.seconds / narrow.work.kernels
    a, b = (max(one.seconds - kernel * one.work.kernels, one.seconds / 10) for one in (thin, wide))
    determinant = thin.work.flops * wide.work.values - wide.work.flops * thin.work.values
    flop = (a * wide.work.values - b * thin.work.values) / determinant
    value = (b * thin.work.flops - a * wide.work.flops) / determinant
    if value <= 0:  # noisy measurement: let operations alone explain the wide step
        flop, value = b / wide.work.flops, TINY
    if flop <= 0:
        flop, value = b / wide.work.flops / 2, b / wide.work.values / 2
    return Speed(1 / flop, 1 / value, 1 / kernel)


def _time_a_step(
    device: torch.device,
    precision: Precision,
    width: int,
    batch: int,
    size: int,
    *,
    threads: int,
    seconds: float,
) -> Timed:
    """One training step of a ResNet-18 on random images, the mean over `seconds`; in float32 where the device
    computes it wrongly in bfloat16."""
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else lambda: time.process_time() / threads
    shape, network = (3, size, size), ResNet18(width=width)
    if precision == "bfloat16":
        sizes = BatchSizes(training=frozenset({batch}))
        wrong = failures(network, shape=shape, num_classes=10, sizes=sizes, device=device)
        precision = "float32" if wrong else precision
    spec = TrainSpec(architecture=network, batch_size=batch, precision=precision, augmentations=())
    work = over(batch, batch, spec.defense.passes, network_flops(network, shape=shape, num_classes=10))
    images = random_images(4 * batch, shape, 10).to(device)
    steps = training_steps(Training.begin(spec, images, seed=0, device=device), images, device)
    advance(steps, WARM_UP if gpu else 1, device)
    taken, number = 0.0, 0
    while taken < seconds and number < MOST_STEPS:
        taken += advance(steps, 1, device, clock)
        number += 1
    return Timed(work, taken / number)


def training_steps(training: Training, images: Images, device: torch.device) -> Iterator[Tensor]:
    """Endless training steps, as in an epoch; each `next` takes one step and returns its loss."""
    spec = training.spec
    forward = compiled(spec, training.model)
    training.model.train()
    for epoch in itertools.count(1):
        gen = generator(device, 0, epoch)
        order = torch.randperm(len(images), generator=gen, device=device)
        for x, labels in feed(images, spec.batch_size, device, order):
            y = spec.targets(labels, images.num_classes)
            yield train_step(training, forward, x, y, gen, lr=spec.optimizer.lr)[0]


def advance(
    steps: Iterator[Tensor], number: int, device: torch.device, clock: Clock = time.perf_counter
) -> float:
    """The seconds by `clock` that this number of steps takes, including the work of the device."""
    _synchronize(device)
    start = clock()
    for _ in range(number):
        next(steps)
    _synchronize(device)
    return clock() - start


def random_images(n: int, shape: Shape, num_classes: int) -> Images:
    """`n` images of noise on the host, with the classes in turn."""
    x = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(n) % num_classes, num_classes)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Within the block torch uses this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
