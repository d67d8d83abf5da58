"""Runs a plan. There is no barrier: a trial starts when its own data sets are in the store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from ray.exceptions import RayError

from orchestrator.cluster.host import scratch, stoppable
from orchestrator.estimates import packing
from orchestrator.estimates.cost import Costs
from orchestrator.estimates.kept_weights import choose_kept_weights
from orchestrator.estimates.shares import Given, Measured, Shares
from orchestrator.execution.context import SweepContext
from orchestrator.execution.pace import Pace
from orchestrator.execution.pressure import Pressure
from orchestrator.execution.progress import Progress
from orchestrator.execution.ray.builders import Builders
from orchestrator.execution.ray.connect import Cluster, cluster
from orchestrator.execution.ray.profiling import Profiles
from orchestrator.execution.ray.tune import Tuning
from orchestrator.execution.ray.worker import Shared, Work
from orchestrator.execution.requests import Claims
from orchestrator.execution.scheduler import Scheduler
from orchestrator.execution.trial import run_trial
from orchestrator.execution.trial_states import State
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.extents import Extents
from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.preflight import check_ready
from orchestrator.planning.resources import lacking
from orchestrator.storage.heartbeats import Driver, remove_dead
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.storage import Storage
from orchestrator.storage.stores import storage_of
from poisons import Store
from trainers import InputError
from trainers.spec import plain

POLL_SECONDS = 0.2  # between two polls of builders, pauses, other drivers and the size of the cluster
RAY_SECONDS = 120.0  # if every call to Ray fails for this long, the sweep ends


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: the number of trials done now, the keys of failed and of pruned ones, and whether
    it was asked to stop."""

    done: int
    failed: tuple[str, ...]
    stopped: tuple[str, ...]
    interrupted: bool


def run_plan(
    plan: Plan,
    store: Store,
    observer: Observer,
    *,
    address: str | None = None,
    work: Work = run_trial,
    retry: Iterable[str] = (),
) -> Outcome:
    """Build what is missing and run what is missing; results are in the ledger, and the observer is notified.

    `address` is an existing Ray cluster (`auto` or `host:6379`); by default Ray is started on this machine.
    Failures of the trials whose keys are in `retry` are forgotten once it is certain that the sweep can run.
    A failed trial does not stop the others. SIGINT, SIGTERM and `opsctl stop` end the sweep at once, and
    nothing finished is lost. Raises InputError for a cluster that does not answer or can never give what a
    trial asks for, if a trial finds that the sweep asks for something impossible, and if trials that are to
    run on this machine need a package that it lacks.
    """
    if address is None:
        check_ready(task.trial for task in plan.missing if task.trains)
    storage, run, stop = storage_of(store), plan.sweep.run, threading.Event()
    with ExitStack() as after:
        after.callback(observer.sweep_ended)
        remove_dead(storage)
        driver = after.enter_context(_driver(plan, storage, stop))
        context = SweepContext(plan, store, observer, Leases(storage, driver.id))
        progress = Progress(context, _pace(plan, store))
        after.callback(progress.abandon)  # runs after all workers have ended
        with (
            cluster(address, cpu_isa=run.cpu_isa) as there,
            stoppable(stop),
            scratch() as folder,
        ):  # after `cluster`: Ray installs its own signal handlers
            pressure = Pressure()
            builders = Builders(context, progress, there, driver.id, pressure=pressure)
            after.callback(builders.abandon)
            shares, profiles = _shares(plan, store, there)
            kept = choose_kept_weights(plan, store).kept
            for key in retry:
                Ledger(storage_of(store)).forget(key)
            progress.begin(shares)
            shared = Shared(store.where, driver.id, json.dumps(plain(run)), work)

            def claims() -> Claims:
                return builders.claimed + profiles.claimed if profiles else builders.claimed

            with Tuning(shared, folder) as tuning:
                observer.sweep_started(plan)
                scheduler = Scheduler(context, progress, tuning, there, claims, kept, pressure)
                polls = [builders.poll, *([profiles.poll] if profiles else []), progress.poll]
                _drive(progress, builders, scheduler, driver, stop, polls)
    done, failed, pruned = map(progress.trials, (State.DONE, State.FAILED, State.PRUNED))
    if progress.mistake is not None:
        raise InputError(
            f"{progress.mistake}; the sweep was stopped, {len(done)} trials that are done are kept"
        )
    return Outcome(len(done), tuple(failed), tuple(pruned), stop.is_set())


def _driver(plan: Plan, storage: Storage, stop: threading.Event) -> Driver:
    """The heartbeat of a plan's driver, which protects what the plan needs."""
    needs, starts = plan.names, plan.starts
    return Driver(storage, plan.sweep.name, stop, needs=needs, starts=starts, snapshot=plan.version)


def _drive(
    progress: Progress,
    builders: Builders,
    scheduler: Scheduler,
    driver: Driver,
    stop: threading.Event,
    polls: Sequence[Callable[[], None]],
) -> None:
    """Run until nothing is left to do, or the sweep is asked to stop. What Ray cannot do at the moment is
    retried; OSError if Ray does not respond for a while."""
    polled, well = Every(POLL_SECONDS), time.monotonic()
    while not stop.is_set() and progress.mistake is None:
        try:
            if polled.due():
                for poll in polls:
                    poll()
                driver.state = progress.to_json() | builders.to_json() | scheduler.to_json()
            if progress.finished:
                break
            scheduler.step()
            well = time.monotonic()
        except RayError as error:
            if time.monotonic() - well > RAY_SECONDS:
                lines = str(error).strip().splitlines() or [""]
                raise OSError(f"Ray no longer answers ({type(error).__name__}: {lines[0]})") from None
            time.sleep(POLL_SECONDS)


class Every:
    """`due` is true at most once in this many seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.now, self.last = seconds, now, -float("inf")

    def due(self) -> bool:
        if self.now() - self.last < self.seconds:
            return False
        self.last = self.now()
        return True


def _pace(plan: Plan, store: Store) -> Pace:
    """The expected duration of each missing trial: from finished trials, or a guess that orders them. Trials
    that differ only in seed and poison take equally long."""
    recipes = {task.key: _recipe(task) for task in plan.missing}
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = max(1, int(plan.sweep.run.cpus_per_trial))
    keys = [task.key for task in plan.tasks]
    costs = Costs.learned(store, prefer=keys, place=place, threads=threads)
    if costs is None and len(set(recipes.values())) < 2:
        return Pace({}, recipes)
    known = costs or Costs.usual(store)
    seconds = {task.key: known.task_seconds(task) for task in plan.missing}
    return Pace(seconds, recipes, learned=costs is not None)


def _recipe(task: Task) -> Hashable:
    """The part of a trial that determines its duration."""
    trial = task.trial
    keys = (trial.train.key, trial.evaluation.key, trial.test_data.key)
    return (*keys, trial.data.limit, task.trains, tuple(planned.name for planned in task.missing_probes))


def _shares(plan: Plan, store: Store, there: Cluster) -> tuple[Shares, Profiles | None]:
    """The share of a GPU for each trial: as the sweep says, or as measured, or a whole GPU where there are
    any. InputError if no machine of the cluster has the resources."""
    run = plan.sweep.run
    has = {name: there.most(name) for name in ("CPU", "GPU")}
    if problem := lacking(run, has):
        raise InputError(problem)
    given = run.gpus_per_trial if isinstance(run.gpus_per_trial, float) else float(has["GPU"] >= 1)
    measured = run.gpus_per_trial == "auto" and given > 0
    if not measured and not 0 < given < 1:
        return Shares.fixed(given), None
    kept, extents = packing.ShareStore(storage_of(store)), Extents(store)
    if not measured:
        return Given(given, kept, extents, there.gpu_model(), plan.missing), None
    shares = Measured(kept, extents, there.gpu_model(), plan.missing)
    return shares, Profiles(shares, extents, run.cpus_per_trial)
