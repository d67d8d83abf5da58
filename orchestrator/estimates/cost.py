"""The cost of a sweep: estimated seconds of a trial and of a data set on a device."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

import torch

from orchestrator.estimates.craft_rates import CraftRates
from orchestrator.estimates.flops_kept import FlopsKept
from orchestrator.estimates.rates import Rates, Run, device_name, processor
from orchestrator.planning.extents import Extents
from orchestrator.planning.plan import Task
from orchestrator.planning.probes import PlannedProbe
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.stores import storage_of
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec, Store
from trainers.flops import Work, trial_work
from trainers.probe import Examined

LEARN = 300  # most records that rates are learned from
START_SECONDS = 0.5  # overhead of a trial or a data set: opening files, creating a network


@dataclass
class Costs:
    """Seconds of trials and data sets, given the `rates` of a device. Results are cached. Never fails:
    where nothing is known, typical values are used."""

    store: Store
    rates: Rates
    crafts: CraftRates
    known: dict[Hashable, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.extents, self.flops = Extents(self.store), FlopsKept(storage_of(self.store))

    @classmethod
    def given(cls, store: Store, tflops: float) -> Costs:
        """One rate for all trials, in 10¹² operations per second."""
        return cls(store, Rates.given(tflops), CraftRates.learned(store))

    @classmethod
    def learned(
        cls, store: Store, *, prefer: Iterable[str] = (), place: torch.device, threads: int = 1
    ) -> Costs | None:
        """Rates from finished trials of the store, preferring those whose keys are in `prefer`: trials
        that ran on `place`, or else on the device that ran most of them. None if nothing has finished yet."""
        ledger, extents = Ledger(storage_of(store)), Extents(store)
        kept = FlopsKept(ledger.storage)
        records = ledger.summaries(_sample(prefer, ledger.done())).values()
        runs = [run for record in records if (run := read_run(record, extents, kept)) is not None]
        rates = Rates.learned(runs, device_name(place, threads))
        return None if rates is None else cls(store, rates, CraftRates.learned(store))

    @classmethod
    def measured(cls, store: Store, *, place: torch.device, threads: int = 1) -> Costs:
        """The speed of this machine, measured in a few seconds the first time."""
        rates = Rates.measured(storage_of(store), place, threads)
        return cls(store, rates, CraftRates.learned(store))

    @classmethod
    def of_some_gpu(cls, store: Store) -> Costs:
        """A guess for GPUs that are not in this machine and have no results yet."""
        return cls(store, Rates.of_some_gpu(), CraftRates.learned(store))

    @classmethod
    def usual(cls, store: Store) -> Costs:
        """A guess that is good enough to order trials by their duration."""
        return cls(store, Rates("", "a guess"), CraftRates.learned(store))

    def trial_seconds(self, trial: TrialSpec) -> float:
        """The duration of a trial, including its evaluation."""
        train, test = self.extents.of(trial.data), self.extents.of(trial.test_data)
        name = (_handle(trial), train, test)
        if name not in self.known:
            network = self.flops.of(trial.train.architecture, train)
            work = trial_work(trial, network, train=train.images, test=test.images)
            self.known[name] = START_SECONDS + self.rates.seconds(work, trial.train)
        return self.known[name]

    def task_seconds(self, task: Task) -> float:
        """The duration of a trial of a plan: its training, if it has to be trained, and the probes that it
        lacks."""
        training = self.trial_seconds(task.trial) if task.trains else START_SECONDS
        return training + sum(self.probe_seconds(task.trial, planned) for planned in task.missing_probes)

    def probe_seconds(self, trial: TrialSpec, planned: PlannedProbe) -> float:
        """The duration of a probe of a trial."""
        train, test = self.extents.of(trial.data), self.extents.of(trial.test_data)
        test = replace(test, images=test.at_most(trial.evaluation.limit))
        sets = {name: self.extents.of(spec) for name, spec in planned.sets.items()}
        name = (planned.probe.key, _handle(trial), train, test, *sets.items())
        if name not in self.known:
            network = self.flops.of(trial.train.architecture, train)
            try:
                work = planned.probe.work(Examined(trial.train, network, train, test, sets))
            except Exception:  # noqa: BLE001  (a library may raise anything, and a cost is worth no failure)
                work = Work()
            self.known[name] = self.rates.seconds(work, trial.train)
        return self.known[name]

    def data_seconds(self, spec: DataSpec, *, reused: bool = False) -> float:
        """The time it takes to make a data set once the ones that it is made from are there; `reused` if its
        network was trained for another one."""
        return START_SECONDS + self.crafts.seconds(spec, self.extents.of(spec), self.rates, reused=reused)


def read_run(record: Result, extents: Extents, kept: FlopsKept) -> Run | None:
    """The speed of its device that a trial's record shows; None if it is not of this version."""
    try:
        trial = TrialSpec.model_validate(record["spec"])
        train, test = extents.of(trial.data), extents.of(trial.test_data)
        network = kept.of(trial.train.architecture, train)
        work = trial_work(trial, network, train=train.images, test=test.images)
        device = processor(record["threads"]) if record["device"] == "cpu" else record["device"]
        seconds = max(float(record["seconds"]), 1e-3)
        return Run(trial.train, device, record["precision"], work, seconds)
    except (KeyError, TypeError, ValueError):
        return None


def _sample(prefer: Iterable[str], done: set[str]) -> list[str]:
    """At most LEARN of the keys in `done`: evenly spaced ones of `prefer`, then any. Keys are random."""
    mine = [key for key in prefer if key in done]
    mine = mine[:: math.ceil(len(mine) / LEARN) or 1]
    return [*mine, *sorted(done.difference(mine))[: LEARN - len(mine)]]


def _handle(trial: TrialSpec) -> Hashable:
    """The part of a trial that determines its cost, quick to compare; options of a library's network have
    no hash."""
    try:
        hash(trial.train)
    except TypeError:
        return trial.train.key, trial.evaluation
    return trial.train, trial.evaluation
