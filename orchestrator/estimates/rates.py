"""How fast a device trains: floating-point operations per second, learned from finished trials, measured
once, or given."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from orchestrator.storage.storage import Storage
from trainers.flops import Work
from trainers.gpu_profile import Speed, training_speed
from trainers.recipe import Precision, TrainSpec
from trainers.stored import DamagedError, JsonFile

BATCH_SECONDS = 0.0005  # host time for one pass of a batch through a network of any size
# If nothing is known: about what `training_speed` measures for one thread of a server's processor; two cores
# reach 0.48 TFLOP/s in a wide network (benchmarks/README.md). No GPU was measured: its speed is a guess.
USUAL = Speed(1e11, values=8e8, kernels=3e4)
USUAL_OF_A_GPU = Speed(1e13, values=5e10, kernels=7e4)
Group = tuple[str, ...]
Rate = Annotated[FiniteFloat, Field(gt=0)]


class SpeedRecord(TypedDict):
    """A `Speed`, as JSON."""

    flops: Rate
    values: Rate
    kernels: Rate


class RatesRecord(TypedDict):
    """`rates/<device>.json`: what was measured of a device."""

    device: str
    speeds: dict[Precision, SpeedRecord]


RATES = JsonFile[RatesRecord](RatesRecord)


@dataclass(frozen=True)
class Run:
    """A finished training: how it was trained, where, what it computed and how long that took."""

    train: TrainSpec
    device: str
    precision: str
    work: Work
    seconds: float


@dataclass(frozen=True)
class Rates:
    """How long trainings take on one device: as its `speed` says, times a factor by group of trainings, the
    finest group first that is known: this network in this precision and batch size, networks of its kind in
    this precision, this precision, all.

    The factors are those of finished trials. Without any, what a network does beside its operations, which
    counts most in a narrow one, is in the speed.
    """

    device: str
    origin: str  # such as "learned from 812 trials on NVIDIA H200"
    speed: Speed = USUAL
    auto: str = "float32"  # what `precision: auto` resolves to there
    factors: Mapping[Group, float] = field(default_factory=dict)

    @property
    def usual(self) -> float:
        """Operations per second of a usual training."""
        return self.speed.flops / self.factors.get((), 1.0)

    def of(self, train: TrainSpec) -> float:
        """Operations per second of a training, if it did nothing else."""
        return self.speed.flops / self._factor(train)

    def seconds(self, work: Work, train: TrainSpec | None = None) -> float:
        """How long `work` takes with the network of `train`, or with some network."""
        factor = self.factors.get((), 1.0) if train is None else self._factor(train)
        return factor * unscaled(work, self.speed)

    def _factor(self, train: TrainSpec) -> float:
        precision = self.auto if train.precision == "auto" else train.precision
        return next((self.factors[g] for g in _groups(train, precision) if g in self.factors), 1.0)

    @classmethod
    def learned(cls, runs: Iterable[Run], device: str) -> Rates | None:
        """From the trainings on `device`, else on the device that most ran on; None if there are none.
        Trainings on a processor do not count for a GPU."""
        known = [run for run in runs if is_gpu(run.device) or not is_gpu(device)]
        counts = Counter(run.device for run in known)
        if not counts:
            return None
        if device not in counts:
            device = counts.most_common(1)[0][0]
        here = [run for run in known if run.device == device]
        speed = USUAL_OF_A_GPU if is_gpu(device) else USUAL
        by_group: dict[Group, list[float]] = defaultdict(list)
        for run in here:
            for group in _groups(run.train, run.precision):
                by_group[group].append(unscaled(run.work, speed) / run.seconds)
        factors = {group: 1 / statistics.median(found) for group, found in by_group.items()}
        chosen = Counter(run.precision for run in here if run.train.precision == "auto")
        auto = chosen.most_common(1)[0][0] if chosen else "float32"
        what = "1 trial" if len(here) == 1 else f"{len(here):,} trials"
        return cls(device, f"learned from {what} on {device}", speed, auto, factors)

    @classmethod
    def given(cls, tflops: float) -> Rates:
        """One rate for everything, in 10¹² operations per second, and no time for anything else."""
        return cls("", "given", Speed(tflops * 1e12))

    @classmethod
    def of_some_gpu(cls) -> Rates:
        """A guess for a GPU of which nothing is known."""
        return cls("", "a guess; say what a GPU reaches with --tflops", USUAL_OF_A_GPU)

    @classmethod
    def measured(cls, storage: Storage, place: torch.device, threads: int) -> Rates:
        """What this machine reaches in training three ResNet-18s, measured in a few seconds, and remembered
        under `rates/`."""
        name, auto = device_name(place, threads), TrainSpec().arithmetic(place)
        known = _remembered(storage, name)
        if auto not in known:
            known[auto] = training_speed(place, auto, threads=threads)
            speeds = {precision: asdict(speed) for precision, speed in known.items()}
            with suppress(OSError):  # without the cached file it is measured again
                storage.write(_place(name), json.dumps({"device": name, "speeds": speeds}, indent=1).encode())
        return cls(name, "measured on this machine", known[auto], auto)


def unscaled(work: Work, speed: Speed) -> float:
    """Seconds of work at this speed, plus the host's time for each batch."""
    return speed.seconds(work) + BATCH_SECONDS * work.batches


def device_name(place: torch.device, threads: int) -> str:
    """As records name it: `NVIDIA H200`, `cpu, 2 threads`; the speed of a processor depends on the number of
    threads. Empty for a GPU of another machine."""
    if place.type != "cuda":
        return processor(threads)
    return torch.cuda.get_device_name(place) if torch.cuda.is_available() else ""


def processor(threads: int) -> str:
    """`cpu, 2 threads`"""
    return f"cpu, {threads} thread{'s' * (threads != 1)}"


def is_gpu(device: str) -> bool:
    return not device.startswith("cpu,")


def slug(device: str) -> str:
    """A device as part of a file's name: `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def _groups(train: TrainSpec, precision: str) -> tuple[Group, ...]:
    kind, network = train.architecture.kind, train.architecture.key
    exact = (precision, kind, network, str(train.batch_size), train.execution)
    return exact, (precision, kind), (precision,), ()


def _place(device: str) -> str:
    return f"rates/{slug(device)}.json"


def _remembered(storage: Storage, device: str) -> dict[Precision, Speed]:
    data = storage.read(_place(device))
    try:
        speeds = {} if data is None else RATES.read(data)["speeds"]
    except DamagedError:
        return {}  # damaged, or from an older opsctl: measure again
    return {precision: Speed(**speed) for precision, speed in speeds.items()}
