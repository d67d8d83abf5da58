"""Running a plan on Ray: tasks build data sets, Tune schedules trials. The only file that imports ray.

There is no barrier between the two: Tune asks for the next trial, and gets one whose data sets are in the
store.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "RAY_CHDIR_TO_TRIAL_DIR", "0"
)  # relative paths mean the same on the driver and in a trial
os.environ.setdefault(
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"
)  # they write five files a trial; our ledger needs none
os.environ.setdefault(
    "TUNE_DISABLE_SIGINT_HANDLER", "1"
)  # we have our own, which also ends the building of data sets
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "30")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the older output can be silenced; ours is the display

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.util.queue import Queue

from orchestrator.observer import Observer
from orchestrator.plan import Plan, Task
from orchestrator.results import Ledger
from orchestrator.spec import TrialSpec
from orchestrator.trial import run_trial
from poisons import DataSpec, Store
from trainers import InputError
from trainers.loop import Metrics
from trainers.spec import plain

REPORT_SECONDS = 0.5  # a trial's epochs reach the driver in batches, at most this often


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended: trials done now, keys of those that failed, and whether it was told to stop."""

    done: int
    failed: tuple[str, ...]
    interrupted: bool


def run_plan(plan: Plan, store: Store, observer: Observer, *, address: str | None = None) -> Outcome:
    """Build what is missing and run what is missing. Results are in the ledger; the observer is told on the
    way.

    `address` is an existing Ray cluster (`auto`, `host:6379`, `ray://...`); by default Ray is started on
    this machine. A failed trial does not stop the others. SIGINT and SIGTERM end the sweep at once, and
    nothing finished is lost.
    """
    with _cluster(address), _scratch(store, plan) as scratch, _stoppable() as stop:
        run = _Run(plan, store, observer, stop, gpus=_gpus_per_trial(plan))
        run.submit_data()
        observer.sweep_started(plan)
        tune.run(
            _train,
            name=scratch.name,
            storage_path=str(scratch.parent),
            config={"store": str(store.root)},
            search_alg=_Feed(run),
            num_samples=len(plan.missing),
            callbacks=[_Ears(run)],
            stop=_Brake(stop),
            resources_per_trial={"cpu": plan.sweep.run.cpus_per_trial, "gpu": run.gpus},
            max_concurrent_trials=plan.sweep.run.max_concurrent,
            max_failures=plan.sweep.run.retries,
            reuse_actors=True,
            raise_on_failed_trial=False,
            trial_name_creator=_key_of,
            trial_dirname_creator=_key_of,
            progress_reporter=_Silence(),
            verbose=0,
        )
        run.fail_the_rest()
        observer.sweep_ended()
        return Outcome(run.done, tuple(run.failed), stop.is_set())


@dataclass
class _Run:
    """What the driver knows while a sweep runs; its methods are called in Tune's thread."""

    plan: Plan
    store: Store
    observer: Observer
    stop: threading.Event
    gpus: float
    done: int = 0
    failed: list[str] = field(default_factory=list)
    refs: dict[ray.ObjectRef, DataSpec] = field(default_factory=dict)  # being built
    broken: dict[str, str] = field(default_factory=dict)  # name of a data set -> why it cannot be built
    mail: Queue | None = None

    def __post_init__(self) -> None:
        self.tasks = {task.key: task for task in self.plan.tasks}
        self.waiting = list(self.plan.missing)
        self.built = set(self.plan.ready)
        self.ledger = Ledger(self.store.root)

    def submit_data(self) -> None:
        """One Ray task for each data set to build; one that is made from others waits for their tasks."""
        specs = {spec.name: spec for spec in self.plan.to_build}
        if not specs:
            return
        self.mail = Queue(actor_options={"num_cpus": 0})
        by_name: dict[str, ray.ObjectRef] = {}
        for spec in specs.values():
            parents = [by_name[parent.name] for parent in spec.parents if parent.name in by_name]
            gpus = 1 if spec.poison[-1].wants_gpu and ray.cluster_resources().get("GPU", 0) >= 1 else 0
            task = _build.options(name=spec.name, num_cpus=self.plan.sweep.run.cpus_per_data, num_gpus=gpus)
            ref = task.remote(str(self.store.root), json.dumps(plain(spec)), self.mail, *parents)
            by_name[spec.name] = ref
            self.refs[ref] = spec

    def poll(self) -> None:
        """Take note of what the builders say and of which of them are done."""
        if self.mail is not None:
            for name, row in self._letters():
                spec = next(spec for spec in self.plan.data if spec.name == name)
                self.observer.data_progress(spec, row) if row else self.observer.data_started(spec)
        ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0) if self.refs else ([], [])
        for ref in ready:
            spec = self.refs.pop(ref)
            try:
                ray.get(ref)
            except (RayError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
                self.broken[spec.name] = _cause(error)
                self.observer.data_failed(spec, self.broken[spec.name])
            else:
                self.built.add(spec.name)
                self.observer.data_built(spec)

    def next_task(self) -> Task | None:
        """The first waiting trial whose data sets are there; trials whose data set cannot be built fail
        here."""
        self.poll()
        for task in list(self.waiting):
            names = [spec.name for spec in task.trial.needs]
            if any(name in self.broken for name in names):
                self.waiting.remove(task)
                self._fail(task, next(self.broken[name] for name in names if name in self.broken))
            elif all(name in self.built for name in names):
                self.waiting.remove(task)
                return task
        return None

    def ended(self, key: str) -> None:
        """Tune says that a trial ended well; the ledger knows with what."""
        record = self.ledger.result(key)
        if record is None:
            if not self.stop.is_set():
                self._fail(self.tasks[key], f"the trial ended, but {self.ledger.root / key} has no result")
            return
        self.done += 1
        self.observer.trial_done(self.tasks[key], record)

    def broke(self, key: str) -> None:
        """Tune has given a trial up."""
        failure = self.ledger.failure(key)
        self._fail(
            self.tasks[key], failure["error"] if failure else "its worker process died", write=failure is None
        )

    def fail_the_rest(self) -> None:
        """Trials that could not start because their data set cannot be built."""
        self.poll()
        while not self.stop.is_set() and self.waiting and self.next_task() is not None:
            pass

    def _fail(self, task: Task, error: str, *, write: bool = True) -> None:
        if write:
            self.ledger.fail(task.key, {"error": error, "traceback": None})
        self.failed.append(task.key)
        self.observer.trial_failed(task, error)

    def _letters(self) -> list[tuple[str, dict[str, Any]]]:
        assert self.mail is not None
        try:
            return self.mail.get_nowait_batch(self.mail.qsize())
        except RayError:
            return []  # progress is a courtesy: its actor may have died with its node


class _Unsaved:
    """What Tune would write into its snapshots and must not: our ledger is what a sweep resumes from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Feed(_Unsaved, Searcher):
    """Gives Tune the next trial, as a JSON string, when its data sets are there."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.run.stop.is_set() or (task := self.run.next_task()) is None:
            return self.FINISHED if self.run.stop.is_set() or not self.run.waiting else None
        return {"key": task.key, "trial": json.dumps(plain(task.trial)), "gpu": self.run.gpus > 0}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None: ...

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Ears(_Unsaved, tune.Callback):
    """Passes Tune's events on."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.run.poll()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.run.observer.trial_started(self.run.tasks[_key_of(trial)])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if rows := json.loads(result.get("rows", "[]")):
            self.run.observer.trial_progress(self.run.tasks[_key_of(trial)], rows)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.run.observer.trial_retried(self.run.tasks[_key_of(trial)])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.run.ended(_key_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.run.broke(_key_of(trial))


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


@ray.remote(max_retries=3)
def _build(root: str, spec: str, mail: Queue, *parents: None) -> None:
    """Build one data set on a worker; `parents` are here to be waited for."""
    data = DataSpec.parse(json.loads(spec), "data set")
    device = _prepare(gpu=bool(ray.get_gpu_ids()))
    mail.put((data.name, {}))
    Store(root).ensure(data, device=device, report=lambda row: mail.put((data.name, row)))


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

    run_trial(trial, Store(config["store"]), device=_prepare(gpu=config["gpu"]), report=report)
    flush()


def _prepare(*, gpu: bool) -> torch.device:
    """The device of this worker, with as many threads as Ray gave it processors."""
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    return torch.device("cuda" if gpu else "cpu")


def _key_of(trial: Trial) -> str:
    return str(trial.config["key"])


def _cause(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}".split("\n\n")[0]


def _gpus_per_trial(plan: Plan) -> float:
    """What the sweep says, else one where there is any; and an InputError if the cluster can never give
    it."""
    have = ray.cluster_resources()
    wanted = plan.sweep.run.gpus_per_trial
    gpus = wanted if wanted is not None else float(have.get("GPU", 0) >= 1)
    for name, need, option in (
        ("CPU", plan.sweep.run.cpus_per_trial, "cpus-per-trial"),
        ("CPU", plan.sweep.run.cpus_per_data, "set run.cpus_per_data"),
        ("GPU", gpus, "gpus-per-trial"),
    ):
        if need > have.get(name, 0):
            raise InputError(
                f"{need:g} {name} asked for, but the cluster has {have.get(name, 0):g}; "
                f"lower it with --{option}"
            )
    slots = min(
        have.get("CPU", 0) // plan.sweep.run.cpus_per_trial, have.get("GPU", 0) // gpus if gpus else 10**6
    )
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(1, int(slots)))
    return gpus


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to `address`, or a Ray of our own on this machine that ends with us."""
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told once, by the display
    try:
        _knock(address)
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


def _knock(address: str | None) -> None:
    """See whether anyone listens at `host:port` (OSError if not): Ray would wait for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _scratch(store: Store, plan: Plan) -> Iterator[Path]:
    """A folder for Tune's own state, which nobody needs afterwards; those of drivers killed on this host go
    too."""
    home = store.root / "tune"
    home.mkdir(exist_ok=True)
    for left in home.glob(f"*-{platform.node()}-*"):
        if not _alive(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    scratch = home / f"{plan.sweep.name}-{platform.node()}-{os.getpid()}"
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal does what it always did."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for name in before:
        signal.signal(name, handle)
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
