"""A few real training steps on random images: how fast a device trains, how much memory a training takes, and
how busy it keeps a GPU.

Measuring and reckoning are apart, so that a machine without a GPU tests the reckoning and the steps. What it
cannot test is what CUDA says of its memory and of its kernels' time: `probe` itself runs only on a GPU.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.architectures.resnet import ResNet18
from trainers.evaluate import BATCH, correct
from trainers.feed import feed, place
from trainers.flops import Shape, network_flops
from trainers.images import Images
from trainers.loop import Training, arithmetic_of, compiled, generator, memory_named, train_step
from trainers.recipe import Precision, TrainSpec, repeatable
from trainers.spec import InputError
from trainers.trial import Trial

WARM = 3  # steps before the clock starts: the first chooses algorithms and takes memory
STEPS = 8  # on the clock
CIFAR: Shape = (3, 32, 32)
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
            correct(training.judged.eval(), some, device)
        training.model.train()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            advance(steps, STEPS, device)
        kernels = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
        peak = torch.cuda.max_memory_reserved(device)
    return reckon(peak_bytes=peak, kernel_seconds=kernels, wall_seconds=wall, steps=STEPS)


def training_rate(
    device: torch.device, precision: Precision, *, threads: int = 1, seconds: float = 0.5
) -> float:
    """Floating-point operations per second that `device` reaches in training a ResNet-18 (of half the width
    on a processor) on 32-pixel images; takes about `seconds` and a step. `threads` are those of a processor:
    their own time counts, so that a machine which is busy otherwise gives the same answer."""
    gpu = device.type == "cuda"
    size, clock = (128, time.perf_counter) if gpu else (32, lambda: time.process_time() / threads)
    network = ResNet18(width=64 if gpu else 32)
    spec = TrainSpec(architecture=network, batch_size=size, precision=precision, augmentations=())
    flops = network_flops(network, shape=CIFAR, num_classes=10)
    images = random_images(4 * size, CIFAR, 10).to(device)
    with _threads(threads), repeatable():
        training = Training.begin(spec, images, seed=0, device=device)
        steps = training_steps(training, images, device)
        advance(steps, WARM if gpu else 1, device)
        taken, number = 0.0, 0
        while taken < seconds:
            taken += advance(steps, 1, device, clock)
            number += 1
    return number * size * flops.of(spec.defense.passes) / taken


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
