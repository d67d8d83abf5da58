"""A few real training steps on random images: how fast a device trains, how much memory a training takes, and
how busy it keeps a GPU.

Measuring and reckoning are apart, so that a machine without a GPU tests the reckoning and the steps. What it
cannot test is what CUDA says of its memory and of its kernels' time: `probe` itself runs only on a GPU.
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
from trainers.loop import Training, arithmetic_of, compiled, generator, memory_named, train_step
from trainers.precision import BatchSizes, failures
from trainers.recipe import Precision, TrainSpec, repeatable
from trainers.spec import InputError
from trainers.trial import Trial

WARM = 3  # steps before the clock starts: the first chooses algorithms and takes memory
STEPS = 8  # on the clock
TINY = 1e-15  # seconds of a value where measurements leave nothing for it
MOST_STEPS = 50  # of one network, when a device's speed is measured
Clock = Callable[[], float]


@dataclass(frozen=True)
class Probe:
    """What one trial alone takes of a GPU: its largest reservation in bytes, the share of time in (0, 1] in
    which the GPU computes, and the seconds of a step."""

    peak_bytes: int
    busy: float
    step_seconds: float


def reckon(*, peak_bytes: int, kernel_seconds: float, wall_seconds: float, steps: int) -> Probe:
    """A probe from its measurements: kernels may overlap, so more seconds of them than passed are all of the
    time; and a GPU that was never seen at work is taken for a busy one, which shares least."""
    busy = min(1.0, kernel_seconds / wall_seconds) if kernel_seconds > 0 else 1.0
    return Probe(peak_bytes, busy, wall_seconds / steps)


def probe(trial: Trial, train_shape: Shape, num_classes: int, n: int, device: torch.device) -> Probe:
    """Trains `trial` for a few steps on `n` random images and looks at as many test images as an evaluation
    does at a time; in a process that holds nothing else on the GPU. Attacks of an evaluation are left out:
    their batches are those of the training, and without gradients of weights.

    InputError on anything but a GPU; OutOfMemoryError if the whole GPU is too small.
    """
    if device.type != "cuda":
        raise InputError(
            f"nothing is shared on {device}: a probe says what a trial takes of a GPU; use cuda:0"
        )
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    host = random_images(n, train_shape, num_classes)
    with memory_named(trial.train, host, device), repeatable():
        images = place(trial.train.defense.prepare(host), device)
        some = images.take(torch.arange(min(n, BATCH), device=images.y.device))
        arithmetic = arithmetic_of(trial.train, images, some, device)
        spec = trial.train.model_copy(update={"precision": arithmetic.precision})
        training = Training.begin(spec, images, seed=0, device=device)
        steps = training_steps(training, images, device)
        advance(steps, WARM, device)
        wall = advance(steps, STEPS, device)
        with arithmetic.autocast(device):
            correct(training.eval_model.eval(), some, device)
        training.model.train()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            advance(steps, STEPS, device)
        kernels = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
        peak = torch.cuda.max_memory_reserved(device)
    return reckon(peak_bytes=peak, kernel_seconds=kernels, wall_seconds=wall, steps=STEPS)


@dataclass(frozen=True)
class Speed:
    """What a device does in a second: floating-point operations, values that kernels write, kernels that run.
    A wide network waits for operations, a narrow one for memory and for the host that starts kernels."""

    flops: float
    values: float = math.inf
    kernels: float = math.inf

    def seconds(self, work: Work) -> float:
        """How long this work takes, one thing after the other."""
        return work.flops / self.flops + work.values / self.values + work.kernels / self.kernels


@dataclass(frozen=True)
class Timed:
    """One training step: what it computes, and its seconds."""

    work: Work
    seconds: float


# width of a ResNet-18, batch size, pixels: a step that waits for the host, for memory, for operations
ON_CPU = ((4, 8, 16), (8, 64, 32), (32, 32, 32))
ON_GPU = ((4, 8, 16), (16, 128, 32), (64, 128, 32))


def training_speed(
    device: torch.device, precision: Precision, *, threads: int = 1, seconds: float = 0.25
) -> Speed:
    """What `device` reaches in training, from real steps of three ResNet-18s; each takes about `seconds` and
    a step. `threads` are those of a processor: their own time counts, so that a machine which is busy
    otherwise gives the same answer."""
    gpu = device.type == "cuda"
    with _threads(threads), repeatable():
        narrow, thin, wide = (
            _time_a_step(device, precision, *shape, threads=threads, seconds=seconds)
            for shape in (ON_GPU if gpu else ON_CPU)
        )
    return speed(narrow, thin, wide)


def speed(narrow: Timed, thin: Timed, wide: Timed) -> Speed:
    """The speed at which these steps take as long as they did. The narrow one is taken to wait for kernels
    alone; what the two others take beyond their kernels is divided among values and operations."""
    kernel = narrow.seconds / narrow.work.kernels
    a, b = (max(one.seconds - kernel * one.work.kernels, one.seconds / 10) for one in (thin, wide))
    determinant = thin.work.flops * wide.work.values - wide.work.flops * thin.work.values
    flop = (a * wide.work.values - b * thin.work.values) / determinant
    value = (b * thin.work.flops - a * wide.work.flops) / determinant
    if value <= 0:  # measured among other work: then operations alone explain the wide one
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
    """One training step of a ResNet-18 on random images, as the mean of as many as `seconds` hold; in float32
    where the device computes it wrongly in bfloat16."""
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
    advance(steps, WARM if gpu else 1, device)
    taken, number = 0.0, 0
    while taken < seconds and number < MOST_STEPS:
        taken += advance(steps, 1, device, clock)
        number += 1
    return Timed(work, taken / number)


def training_steps(training: Training, images: Images, device: torch.device) -> Iterator[Tensor]:
    """Training steps without end, as an epoch takes them; each `next` is one, and gives its loss."""
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
    """Seconds by `clock` that so many steps take, the device's work included."""
    _finish(device)
    start = clock()
    for _ in range(number):
        next(steps)
    _finish(device)
    return clock() - start


def random_images(n: int, shape: Shape, num_classes: int) -> Images:
    """`n` images of noise on the host, the classes in turn."""
    x = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(n) % num_classes, num_classes)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Within, torch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
