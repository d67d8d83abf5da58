"""How fast a device trains: floating-point operations per second, learned from finished trials, measured
once, or given."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from orchestrator.depots.depot import Depot
from trainers.flops import Work
from trainers.probe import training_rate
from trainers.recipe import Precision, TrainSpec

BATCH_SECONDS = 0.0005  # of the host, for one pass of a batch through a network, however small that is
USUAL = 1e11  # operations per second where nothing is known: about a processor core
USUAL_OF_A_GPU = 1e13
Group = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A finished training: how it was trained, where, what it computed and how long that took."""

    train: TrainSpec
    device: str
    precision: str
    work: Work
    seconds: float

    @property
    def rate(self) -> float:
        """Operations per second, what the host spends on each batch taken off."""
        return self.work.flops / max(self.seconds - BATCH_SECONDS * self.work.batches, 0.1 * self.seconds)


@dataclass(frozen=True)
class Rates:
    """Operations per second of one device by group of trainings, the finest group first that is known: this
    network in this precision and batch size, networks of its kind in this precision, this precision, all.

    Networks differ: a narrow one reaches a tenth of what a wide one does. A rate that was measured or given
    is one for all, and so tells less than finished trials do.
    """

    device: str
    origin: str  # in words: "learned from 812 trials on NVIDIA H200"
    usual: float = USUAL
    auto: str = "float32"  # what `precision: auto` is there
    groups: Mapping[Group, float] = field(default_factory=dict)

    def of(self, train: TrainSpec) -> float:
        """Operations per second of a training."""
        precision = self.auto if train.precision == "auto" else train.precision
        return next((self.groups[g] for g in _groups(train, precision) if g in self.groups), self.usual)

    def seconds(self, train: TrainSpec, work: Work) -> float:
        """How long `work` takes with the network of `train`."""
        return work.flops / self.of(train) + BATCH_SECONDS * work.batches

    @classmethod
    def learned(cls, runs: Iterable[Run], device: str) -> Rates | None:
        """From the trainings on `device`, else on that which most ran on; None if there are none. Of a GPU
        those on a processor tell nothing."""
        known = [run for run in runs if is_gpu(run.device) or not is_gpu(device)]
        counts = Counter(run.device for run in known)
        if not counts:
            return None
        if device not in counts:
            device = counts.most_common(1)[0][0]
        here = [run for run in known if run.device == device]
        by_group: dict[Group, list[float]] = defaultdict(list)
        for run in here:
            for group in _groups(run.train, run.precision):
                by_group[group].append(run.rate)
        groups = {group: statistics.median(rates) for group, rates in by_group.items()}
        chosen = Counter(run.precision for run in here if run.train.precision == "auto")
        auto = chosen.most_common(1)[0][0] if chosen else "float32"
        what = "1 trial" if len(here) == 1 else f"{len(here):,} trials"
        return cls(device, f"learned from {what} on {device}", groups[()], auto, groups)

    @classmethod
    def given(cls, tflops: float) -> Rates:
        """One rate for everything, in 10¹² operations per second."""
        return cls("", "given", tflops * 1e12)

    @classmethod
    def of_some_gpu(cls) -> Rates:
        """A guess at what a GPU reaches of which nothing is known."""
        return cls("", "a guess; say what a GPU reaches with --tflops", USUAL_OF_A_GPU)

    @classmethod
    def measured(cls, depot: Depot, place: torch.device, threads: int) -> Rates:
        """What this machine reaches in training a ResNet-18, measured in about a second, and remembered under
        `rates/`."""
        name, auto = device_name(place, threads), TrainSpec().arithmetic(place)
        known = _remembered(depot, name)
        if auto not in known:
            known[auto] = training_rate(place, auto, threads=threads)
            told = json.dumps({"device": name, "flops_per_second": known}, indent=1)
            with suppress(OSError):  # a store that cannot be written only makes it measure again
                depot.write(_place(name), told.encode())
        return cls(name, "measured on this machine", known[auto], auto)


def device_name(place: torch.device, threads: int) -> str:
    """As records name it: `NVIDIA H200`, `cpu, 2 threads`; how many threads decides what a processor does. A
    GPU of another machine has no name here."""
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


def _remembered(depot: Depot, device: str) -> dict[Precision, float]:
    try:
        return dict(json.loads(depot.read(_place(device)) or b"{}")["flops_per_second"])
    except (ValueError, KeyError, TypeError):
        return {}  # damaged, or nothing: it is measured again
