"""A profile takes the steps of a training; its arithmetic is tested here, its measurements need a GPU."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch

from tests.conftest import CPU
from trainers import InputError, TrainSpec
from trainers.flops import Work
from trainers.gpu_profile import (
    GpuProfile,
    Speed,
    Timed,
    advance,
    profile_from,
    profile_trial,
    random_images,
    speed,
    training_speed,
    training_steps,
)
from trainers.loop import Training, train_epoch
from trainers.trial import Trial

NARROW = TrainSpec.parse({"architecture": "lenet5", "batch_size": 16}, "test")


def test_only_a_gpu_is_profiled() -> None:
    with pytest.raises(InputError, match=r"of a GPU, and cpu is none: use cuda:0"):
        profile_trial(Trial(train=NARROW), (3, 32, 32), 10, 100, CPU)


@pytest.mark.parametrize(
    ("kernels", "busy"),
    [(0.4, 0.2), (2.0, 1.0), (3.0, 1.0), (0.0, 1.0)],
)
def test_the_share_of_time_in_which_a_gpu_works(kernels: float, busy: float) -> None:
    profile = profile_from(peak_bytes=7, kernel_seconds=kernels, wall_seconds=2.0, steps=4)
    assert profile == GpuProfile(peak_bytes=7, busy=busy, step_seconds=0.5)


def test_its_steps_are_those_of_an_epoch() -> None:
    images = random_images(40, (3, 32, 32), 4)
    training = Training.begin(NARROW, images, seed=0, device=CPU)
    losses = training_steps(training, images, CPU)
    found = [next(losses).item() for _ in range(3)]
    other = Training.begin(NARROW, images, seed=0, device=CPU)
    row = train_epoch(other, other.model, images, epoch=1, seed=0, device=CPU)
    mean = sum(n * loss for n, loss in zip((16, 16, 8), found, strict=True)) / 40
    assert mean == pytest.approx(
        row["train/loss"], rel=0.05
    )  # the rate of learning is that of the first step


def test_steps_are_endless_and_timed() -> None:
    images = random_images(20, (1, 32, 32), 3)
    steps = training_steps(Training.begin(NARROW, images, seed=0, device=CPU), images, CPU)
    ticks = iter((10.0, 14.0))
    assert advance(steps, 5, CPU, lambda: next(ticks)) == 4.0
    assert advance(steps, 1, CPU) > 0


def test_a_measured_speed_is_plausible_and_the_thread_count_is_restored() -> None:
    before = torch.get_num_threads()
    found = training_speed(CPU, "float32", seconds=0.01)
    assert 1e8 < found.flops < 1e15
    assert found.values > 1e5
    assert 1e2 < found.kernels < 1e8
    assert torch.get_num_threads() == before


def test_three_steps_determine_the_speed() -> None:
    """Only the kernels of the narrow network count, nearly as in a real one."""
    true = Speed(2e11, values=7e8, kernels=2e4)
    works = (Work(0, 2, 0, 300), Work(1e10, 2, 2e8, 300), Work(5e10, 2, 2e8, 300))
    found = speed(*(Timed(work, true.seconds(work)) for work in works))
    assert astuple(found) == pytest.approx(astuple(true))


@pytest.mark.parametrize(
    "seconds", [(0.01, 0.02, 9.0), (0.01, 9.0, 0.02), (9.0, 0.01, 0.02), (1e-4, 1.0, 1.0)]
)
def test_a_speed_is_positive_for_noisy_measurements(seconds: tuple[float, float, float]) -> None:
    works = (Work(2e7, 2, 5e5, 242), Work(3e9, 2, 4e7, 242), Work(27e9, 2, 7e7, 242))
    found = speed(*(Timed(work, taken) for work, taken in zip(works, seconds, strict=True)))
    assert all(0 < number < math.inf for number in astuple(found))
    assert 0.1 * min(seconds) < found.seconds(works[2]) < 30 * max(seconds)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a profile measures a GPU")
def test_a_larger_network_uses_more_of_a_gpu() -> None:
    place = torch.device("cuda")
    small = profile_trial(Trial(train=NARROW), (3, 32, 32), 10, 1000, place)
    large = profile_trial(Trial(), (3, 32, 32), 10, 1000, place)
    assert small.peak_bytes < large.peak_bytes
    assert 0 < small.busy <= 1
    assert large.busy > small.busy
