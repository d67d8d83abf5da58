"""Running a plan on Ray: tasks build data sets, Tune schedules trials. The only file that imports ray.

There is no barrier between the two: a trial starts when its own data sets are in the store.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the older output can be silenced; ours is the display
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same on the driver and in a trial
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial, and our ledger needs none
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own, which also ends the building of data sets
    "TUNE_WARN_THRESHOLD_S": "30",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

import ray
import torch
from ray import tune
from ray.exceptions import RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator
from ray.util.queue import Queue

from orchestrator.cache import claim
from orchestrator.host import knock, scratch, stoppable
from orchestrator.observer import Observer
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from orchestrator.spec import RunSpec, TrialSpec
from orchestrator.trial import run_trial
from poisons import DataSpec, Store, Workshop
from poisons.base import Report
from poisons.crew import Alone, Crew, Item, Result, Shared, Work
from trainers import InputError
from trainers.loop import Metrics
from trainers.spec import plain

REPORT_SECONDS = 0.5  # a trial's epochs reach the driver in batches, at most this often
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: trials done now, keys of those that failed, and whether it was told to stop."""

    done: int
    failed: tuple[str, ...]
    interrupted: bool


def run_plan(plan: Plan, store: Store, observer: Observer, *, address: str | None = None) -> Outcome:
    """Build what is missing and run what is missing; results are in the ledger, the observer hears of them.

    `address` is an existing Ray cluster (`auto` or `host:6379`); by default Ray is started on this machine.
    A failed trial does not stop the others. SIGINT and SIGTERM end the sweep at once, and nothing finished
    is lost. Raises InputError for a cluster that does not answer or can never give what a trial asks for.
    """
    try:
        with _cluster(address), scratch(store.root / "tune", plan.sweep.name) as folder, stoppable() as stop:
            claim(folder, plan.names)
            gpus = _gpus_per_trial(plan)
            progress = Progress(plan, store, observer)
            builders = _Builders(progress)
            observer.sweep_started(plan)
            while not stop.is_set():
                builders.poll()
                if progress.ready() is not None:
                    _tune(progress, builders, stop, gpus=gpus, folder=folder)
                elif builders.refs:
                    ray.wait(list(builders.refs), timeout=POLL_SECONDS)
                else:
                    break
            return Outcome(progress.done, tuple(progress.failed), stop.is_set())
    finally:
        observer.sweep_ended()


def _tune(
    progress: Progress, builders: _Builders, stop: threading.Event, *, gpus: float, folder: Path
) -> None:
    """Let Tune run trials for as long as some run or can start."""
    wanted = progress.plan.sweep.run
    tune.run(
        _train,
        name=str(time.monotonic_ns()),
        storage_path=str(folder),
        config={"store": str(progress.store.root), "run": json.dumps(plain(wanted))},
        search_alg=_Feed(progress, gpu=gpus > 0),
        num_samples=len(progress.tasks),
        callbacks=[_Ears(progress, builders)],
        stop=_Brake(stop),
        resources_per_trial={"cpu": wanted.cpus_per_trial, "gpu": gpus},
        max_failures=wanted.retries,
        reuse_actors=True,
        raise_on_failed_trial=False,
        trial_name_creator=_key_of,
        trial_dirname_creator=_key_of,
        progress_reporter=_Silence(),
        verbose=0,
    )


@dataclass
class _Builders:
    """The Ray tasks that build data sets."""

    progress: Progress
    refs: dict[ray.ObjectRef, DataSpec] = field(default_factory=dict)
    mail: Queue | None = None

    def poll(self) -> None:
        """Hear what the builders say and which are done; submit what can be built now."""
        self._read_mail()
        ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0) if self.refs else ([], [])
        for ref in ready:
            spec = self.refs.pop(ref)
            try:
                ray.get(ref)
            except Exception as error:  # noqa: BLE001  (whatever a builder raises is this data set's failure)
                self.progress.data_failed(spec, _cause(error))
            else:
                self.progress.data_built(spec)
        for spec in self.progress.buildable():
            if self._fits(spec):
                self._submit(spec)
        self.progress.most = self._trials()

    def _fits(self, spec: DataSpec) -> bool:
        """Whether a builder may start: they take all processors, but half of them while trials could use
        them; and never so many GPUs that one with helpers would wait for another's."""
        whole = ray.cluster_resources().get("CPU", 1)
        room = whole / 2 if self.progress.live or self.progress.ready() else whole
        at_work = list(self.refs.values())
        if at_work and sum(map(self._cpus, at_work)) + self._cpus(spec) > room:
            return False
        gpus = [_gpus(self._workers(one), wanted=one.wants_gpu) for one in (*at_work, spec)]
        return not gpus[-1] or not any(gpus[:-1]) or sum(gpus) <= ray.cluster_resources().get("GPU", 0)

    def _trials(self) -> float:
        """How many trials may run: Tune hands processors from trial to trial, and builders would get none."""
        run, whole = self.progress.plan.sweep.run, ray.cluster_resources().get("CPU", 1)
        left = whole - sum(map(self._cpus, self.refs.values()))
        return max(1, left // run.cpus_per_trial) if self.refs else math.inf

    def _workers(self, spec: DataSpec) -> int:
        """A builder and its helpers; only crafting is shared."""
        return self.progress.plan.sweep.run.workers_per_data if spec.crafts else 1

    def _cpus(self, spec: DataSpec) -> float:
        """Processors that a builder and its helpers take."""
        return self.progress.plan.sweep.run.cpus_per_data * self._workers(spec)

    def _submit(self, spec: DataSpec) -> None:
        self.mail = self.mail or Queue(actor_options={"num_cpus": 0})
        cpus, workers = self.progress.plan.sweep.run.cpus_per_data, self._workers(spec)
        gpus = _gpus(workers, wanted=spec.wants_gpu)
        ref = _start_build(spec, self.progress.store, self.mail, cpus=cpus, gpus=gpus, workers=workers)
        self.refs[ref] = spec
        del self.progress.unbuilt[spec.name]

    def _read_mail(self) -> None:
        if self.mail is None:
            return
        specs = self.progress.data
        with suppress(RayError):  # progress is a courtesy: its actor may have died with its node
            for name, row in self.mail.get_nowait_batch(self.mail.qsize()):
                if row:
                    self.progress.observer.data_progress(specs[name], row)
                else:
                    self.progress.observer.data_started(specs[name])


class _Unsaved:
    """What Tune would write into its snapshots and must not: our ledger is what a sweep resumes from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Feed(_Unsaved, SearchGenerator):
    """Gives Tune trials whose data sets are there.

    It is finished whenever there is none, for the time being: then Tune lets go of the idle workers that it
    keeps for reuse, whose processors and GPUs a builder may be waiting for.
    """

    def __init__(self, progress: Progress, *, gpu: bool) -> None:
        super().__init__(_Suggestions(progress, gpu=gpu))
        self.progress = progress

    def is_finished(self) -> bool:
        return self._finished or self.progress.ready() is None

    def save_to_dir(self, dirpath: str, session_str: str) -> None: ...


class _Suggestions(_Unsaved, Searcher):
    """The next trial as a JSON string, which Tune cannot mistake for a search space."""

    def __init__(self, progress: Progress, *, gpu: bool) -> None:
        super().__init__()
        self.progress, self.gpu = progress, gpu

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if (task := self.progress.ready()) is None:
            return None
        self.progress.give(task)
        return {"key": task.key, "trial": json.dumps(plain(task.trial)), "gpu": self.gpu}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None: ...


class _Ears(_Unsaved, tune.Callback):
    """Passes Tune's events on."""

    def __init__(self, progress: Progress, builders: _Builders) -> None:
        self.progress, self.builders = progress, builders

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.builders.poll()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.progress.started(_key_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if rows := json.loads(result.get("rows", "[]")):
            self.progress.observer.trial_progress(self.progress.tasks[_key_of(trial)], rows)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.progress.observer.trial_retried(self.progress.tasks[_key_of(trial)])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.progress.ended(_key_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.progress.gave_up(_key_of(trial))


class _Brake(_Unsaved, tune.Stopper):
    """Ends every trial once the sweep was told to stop."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.stop.is_set()


class _Silence(tune.ProgressReporter):
    """The display tells what happens."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Trial], done: bool, *sys_info: dict[str, Any]) -> None: ...


def build_data(
    spec: DataSpec, store: Store, report: Report, *, workers: int, address: str | None = None
) -> None:
    """Build one data set, and what it is made from, with `workers` Ray tasks that share the work."""
    with _cluster(address):
        mail = Queue(actor_options={"num_cpus": 0})
        cpus = max(1.0, min(ray.cluster_resources()["CPU"] // workers, _most("CPU")))
        gpus = _gpus(workers, wanted=any(one.wants_gpu for one in (spec, *spec.parents)))
        ref = _start_build(spec, store, mail, cpus=cpus, gpus=gpus, workers=workers)
        ready: list[ray.ObjectRef] = []
        while not ready:
            ready, _ = ray.wait([ref], timeout=POLL_SECONDS)
            with suppress(RayError):  # progress is a courtesy
                for _, row in mail.get_nowait_batch(mail.qsize()):
                    if row:
                        report(row)
        try:
            ray.get(ref)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise OSError(f"the process that built {spec.name} died ({_cause(error)})") from None


def _start_build(
    spec: DataSpec, store: Store, mail: Queue, *, cpus: float, gpus: int, workers: int
) -> ray.ObjectRef:
    task = _build.options(name=spec.name, num_cpus=cpus, num_gpus=min(1, gpus))
    return task.remote(str(store.root), json.dumps(plain(spec)), mail, gpus or workers)


def _gpus(workers: int, *, wanted: bool) -> int:
    """How many of so many workers get a GPU each; the rest would only wait for one. 0 if none is wanted."""
    return min(workers, int(ray.cluster_resources().get("GPU", 0))) if wanted else 0


def _most(resource: str) -> float:
    """What the machine of the cluster has that has most of it."""
    return max(node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"])


@ray.remote(max_retries=3)
def _build(root: str, spec: str, mail: Queue, workers: int) -> None:
    """Build one data set on a worker, which others like it may help."""
    data = DataSpec.parse(json.loads(spec), "data set")
    mine = ray.get_runtime_context().get_assigned_resources()
    crew = _Helpers(workers, mine.get("CPU", 1), mine.get("GPU", 0)) if workers > 1 else Alone()

    def say(row: dict[str, Any]) -> None:
        with suppress(RayError):
            mail.put((data.name, row))

    say({})
    device = _prepare(gpu=bool(ray.get_gpu_ids()))
    Store(root).ensure(data, Workshop(device=device, report=say, crew=crew))


class _Helpers(Crew):
    """This worker and others like it: it does the first item itself."""

    def __init__(self, size: int, cpus: float, gpus: float) -> None:
        self.size = size
        self.task = _help.options(num_cpus=cpus, num_gpus=gpus)

    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        lent = ray.put(shared)
        refs = [self.task.remote(work, lent, item) for item in items[1:]]
        first = [work(shared, item, device) for item in items[:1]]
        return first + ray.get(refs)


@ray.remote(max_retries=3)
def _help(work: Work[Shared, Item, Result], shared: Shared, item: Item) -> Result:
    return work(shared, item, _prepare(gpu=bool(ray.get_gpu_ids())))


def _train(config: dict[str, Any]) -> None:
    """Run one trial on a worker. Its epochs go to the driver, its record to the ledger."""
    trial = TrialSpec.parse(json.loads(config["trial"]), "trial")
    rows: list[Metrics] = []
    last = time.monotonic()

    def report(row: Metrics) -> None:
        nonlocal last
        rows.append(row)
        if time.monotonic() - last >= REPORT_SECONDS:
            flush()
            last = time.monotonic()

    def flush() -> None:
        tune.report({"rows": json.dumps(rows)})
        rows.clear()

    run = RunSpec.parse(json.loads(config["run"]), "run")
    device = _prepare(gpu=config["gpu"])
    run_trial(trial, Store(config["store"]), device=device, report=report, run=run)
    flush()


def _prepare(*, gpu: bool) -> torch.device:
    """The device of this worker, with as many threads as Ray gave it processors."""
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    return torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")


def _key_of(trial: Trial) -> str:
    return str(trial.config["key"])


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}".split("\n\n")[0]


def _gpus_per_trial(plan: Plan) -> float:
    """What the sweep says, else one where there is any; an InputError if no machine of the cluster has it."""
    run = plan.sweep.run
    most = {name: _most(name) for name in ("CPU", "GPU")}
    gpus = float(most["GPU"] >= 1) if run.gpus_per_trial is None else run.gpus_per_trial
    for name, need, way in (
        ("CPU", run.cpus_per_trial, "--cpus-per-trial"),
        ("CPU", run.cpus_per_data, "--set run.cpus_per_data=..."),
        ("GPU", gpus, "--gpus-per-trial"),
    ):
        if need > most[name]:
            raise InputError(
                f"{need:g} {name} asked for, but no machine has more than {most[name]:g}; see {way}"
            )
    whole = ray.cluster_resources()
    slots = min(whole["CPU"] // run.cpus_per_trial, whole["GPU"] // gpus if gpus else 10**6)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, int(slots)))
    return gpus


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to `address`, or a Ray of our own on this machine that ends with us."""
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told once, by the display
    if address is not None and "://" in address:
        raise InputError(
            f"{address}: Ray Client is not supported; give host:6379, or `auto` on the head node"
        )
    try:
        knock(address or "")  # Ray itself would wait for minutes
        ray.init(
            address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            configure_logging=False,
            namespace="opsctl",
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = (
            f"no Ray cluster answers at {address}" if address else "Ray could not be started on this machine"
        )
        raise InputError(f"{where}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()
