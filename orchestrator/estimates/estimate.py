"""What is left of a plan, in hours: the duration of each part, and of all of it on a number of slots."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from orchestrator.estimates import packing
from orchestrator.estimates.cost import Costs
from orchestrator.estimates.duration import duration, hours
from orchestrator.estimates.order import order_data, order_trials, waiting_seconds
from orchestrator.estimates.rates import is_gpu
from orchestrator.estimates.schedule import Job, makespan
from orchestrator.estimates.shares import Measured
from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.stores import storage_of
from poisons import Store

# From the command to the first trial: Ray, workers, their imports. In three sweeps on two cores it took 11 to
# 14 s: `whole` without `seconds` in benchmarks/results/trials.jsonl.
SWEEP_SECONDS = 15.0
COMPILE_SECONDS = 35.0  # in the first training of a recipe in a worker: benchmarks/README.md, train_step


@dataclass(frozen=True)
class Resources:
    """The resources of one trial, `gpus` and `cpus`, and how many trials run at a time."""

    slots: int
    gpus: float
    cpus: float

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.gpus else "CPU-hours"

    @property
    def each(self) -> float:
        """GPUs or processors that one trial occupies."""
        return self.gpus or self.cpus

    @property
    def place(self) -> torch.device:
        return torch.device("cuda" if self.gpus else "cpu")

    @property
    def threads(self) -> int:
        """The number of threads that Ray gives a worker."""
        return max(1, int(self.cpus))


@dataclass(frozen=True)
class Estimate:
    """Seconds of the missing data sets, by name, and of the trials to run, by key; and the total, in
    sequence and on `resources.slots` slots. `startup` are the seconds before any of it begins."""

    plan: Plan
    resources: Resources
    data: Mapping[str, float]
    trials: Mapping[str, float]
    rate: float  # floating-point operations per second of a typical trial
    origin: str  # where the rate comes from, as text
    startup: float = 0.0

    @cached_property
    def wall(self) -> float:
        """Seconds from the start to the last end; data sets occupy slots as trials do."""
        plan = self.plan
        tasks = [task for task in plan.missing if task.key in self.trials]
        waiting = waiting_seconds(plan.data, tasks, self.trials)
        jobs = [
            Job(spec.name, self.data[spec.name], tuple(parent.name for parent in spec.parents))
            for spec in order_data(plan.to_build, waiting)
        ]
        jobs += [
            Job(task.key, self.trials[task.key], task.needs) for task in order_trials(tasks, self.trials)
        ]
        return self.startup + makespan(jobs, self.resources.slots)

    @property
    def hours(self) -> float:
        """GPU-hours, or CPU-hours, of all trials to run."""
        return sum(self.trials.values()) / 3600 * self.resources.each


def estimate_on_this_machine(
    plan: Plan, store: Store, *, tflops: float | None = None, slots: int | None = None, sweeps: int = 1
) -> Estimate | None:
    """The estimate of the missing part of a plan, at the best known rate, if it is run as this many
    `sweeps` in sequence. None if there is no estimate: a plan is useful without one."""
    try:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        run, kept = plan.sweep.run, packing.ShareStore(storage_of(store))
        described = tflops is not None and slots is not None  # other machines than this one
        measured = kept.device() if run.gpus_per_trial == "auto" else None
        take = partial(this_machine, run, cpus=os.cpu_count() or 1, gpus=gpus, slots=slots)
        resources = take(on_gpus=described or measured is not None)
        costs = best_costs(plan, store, resources, tflops)
        if measured is not None:
            resources = take(on_gpus=True, auto=_measured_share(plan, costs, kept, measured))
        elif costs.rates.device and is_gpu(costs.rates.device):
            resources = take(on_gpus=True)
        return estimate(plan, costs, resources, sweeps=sweeps)
    except Exception:  # noqa: BLE001  (drivers, stores and libraries raise what they like)
        return None


def estimate(plan: Plan, costs: Costs, resources: Resources, *, sweeps: int = 1) -> Estimate:
    """The estimate of the missing part of a plan."""
    data = _building(plan, costs)
    missing = {task.key: costs.task_seconds(task) for task in plan.missing}
    likely = _likely(plan, missing)
    trials = {task.key: missing[task.key] for task in likely}
    if not costs.rates.factors:  # rates learned from finished trials include compilation
        for key in _compiling(likely, resources.slots):
            trials[key] += COMPILE_SECONDS
    startup = sweeps * SWEEP_SECONDS if data or trials else 0.0
    return Estimate(plan, resources, data, trials, costs.rates.usual, costs.rates.origin, startup)


def _building(plan: Plan, costs: Costs) -> dict[str, float]:
    """Seconds of the missing data sets, by name. The first of those that share a network trains it, unless
    one of them is there."""
    trained, found = {spec.shares for spec in plan.data if spec.name in plan.ready} - {None}, {}
    for spec in plan.to_build:
        found[spec.name] = costs.data_seconds(spec, reused=spec.shares in trained)
        trained |= {spec.shares} - {None}
    return found


def _compiling(tasks: Sequence[Task], slots: int) -> Iterator[str]:
    """Keys of the trials that compile their network: the first of each recipe on each worker."""
    seen: Counter[tuple[str, str, int, str]] = Counter()
    for task in tasks:
        train = task.trial.train
        if task.trains and train.execution != "eager":
            recipe = (train.architecture.key, train.defense.key, train.batch_size, train.execution)
            seen[recipe] += 1
            if seen[recipe] <= slots:
                yield task.key


def _likely(plan: Plan, seconds: Mapping[str, float]) -> list[Task]:
    """As many of the missing trials as will run: the certain ones, and of the others, which a search
    chooses from, some that are evenly spread from the longest to the shortest."""
    sure = [task for task in plan.missing if task.key in plan.sure]
    others = order_trials((task for task in plan.missing if task.key not in plan.sure), seconds)
    count = plan.most - len(sure)
    return sure + [others[(2 * i + 1) * len(others) // (2 * count)] for i in range(count)]


def best_costs(plan: Plan, store: Store, resources: Resources, tflops: float | None = None) -> Costs:
    """Costs at the rate that is given, or else learned, or else measured, or else guessed."""
    if tflops is not None:
        return Costs.given(store, tflops)
    keys = [task.key for task in plan.tasks if task.trained or task.done]
    found = Costs.learned(store, prefer=keys, place=resources.place, threads=resources.threads)
    if found is None and resources.gpus and not torch.cuda.is_available():
        return Costs.of_some_gpu(store)
    return found or _measured(store, resources)


def _measured(store: Store, resources: Resources) -> Costs:
    """Costs at the measured rate of this machine; a guess where it cannot be measured, for example on a
    full GPU."""
    threads = min(resources.threads, os.cpu_count() or 1)  # with more, measuring would take minutes
    try:
        return Costs.measured(store, place=resources.place, threads=threads)
    except Exception:  # noqa: BLE001  (drivers raise what they like, and a guess is worth more than no answer)
        return Costs.of_some_gpu(store) if resources.gpus else Costs.usual(store)


def this_machine(
    run: RunSpec, *, cpus: int, gpus: int, slots: int | None = None, on_gpus: bool = False, auto: float = 1.0
) -> Resources:
    """The resources that a sweep's `run` block takes on a machine with this many processors and GPUs. Trials
    run on GPUs if the block says so, if there are any, or if there are some elsewhere (`on_gpus`); `auto` is
    the measured share of one.

    `slots` sets how many trials run at a time; by default it is as many as fit on the machine, or, for GPUs
    that it does not have, `max_concurrent` or one.
    """
    wanted = run.gpus_per_trial
    share = wanted if isinstance(wanted, float) else float(gpus > 0 or on_gpus)
    if wanted == "auto" and share:
        share = auto
    if share and not gpus:
        return Resources(slots or run.max_concurrent or 1, share, run.cpus_per_trial)
    per_gpu = gpus * int(1 / share) if 0 < share <= 1 else int(gpus / share) if share else cpus
    room = min(per_gpu, int(cpus / run.cpus_per_trial), run.max_concurrent or cpus)
    return Resources(slots or max(1, room), share, run.cpus_per_trial)


def _measured_share(plan: Plan, costs: Costs, kept: packing.ShareStore, device: str) -> float:
    """The measured share of a GPU that the missing trials take on such devices, averaged over their
    durations. What was not measured takes a whole GPU."""
    shares = Measured(kept, costs.extents, device, plan.missing)
    seconds = [(costs.task_seconds(task), shares.of(task) or 1.0) for task in plan.missing]
    whole = sum(time for time, _ in seconds)
    return sum(time * share for time, share in seconds) / whole if whole else 1.0


def lines(estimate: Estimate) -> list[str]:
    """The estimate in words, a line each; empty if there is nothing to do."""
    if not estimate.data and not estimate.trials:
        return []
    parts = []
    if estimate.trials:
        longest = duration(max(estimate.trials.values()))
        parts.append(f"{hours(estimate.hours)} {estimate.resources.unit} of trials, the longest of {longest}")
    if estimate.data:
        parts.append(f"about {duration(sum(estimate.data.values()))} of data sets")
    slots = f"{estimate.resources.slots} slot{'s' * (estimate.resources.slots != 1)}"
    rate = f"{estimate.rate / 1e12:.3g} TFLOP/s, {estimate.origin}"
    wall = f"about {duration(estimate.wall)} on {slots}"
    return ["; ".join(parts), f"{wall}, {duration(estimate.startup)} of it to start (rate: {rate})"]
