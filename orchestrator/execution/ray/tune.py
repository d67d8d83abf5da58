"""Bundles of trainings as Tune trials.

`tune.run` runs in a thread of its own, with a searcher that suggests the bundles which the driver hands over,
a scheduler that ends those which the driver prunes, and a callback that passes on what workers report. So
slow storage never makes a training wait.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import PlacementGroupFactory
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from orchestrator.execution.bundles import Bundle
from orchestrator.execution.faults import is_out_of_memory
from orchestrator.execution.ray.worker import Shared, train
from orchestrator.execution.requests import Request
from orchestrator.execution.scheduler import Event, Over, Reported, holds, holds_gpu
from orchestrator.storage.backoff import pause

MANY = 10**9
FAILURES = 5  # of Tune itself, in a row, before any worker reports
UNKNOWN = "no reason is known"
WAIT_SECONDS = 0.1  # how long the driver waits for an event, and Tune for one of Ray
END_SECONDS = 30.0  # that Tune's thread has to end: calling Ray after the driver disconnects ends the process


class Tuning:
    """Runs bundles as Tune trials, from `with` to its end. All methods are called from the driver's thread.

    If Tune itself fails, all bundles are lost, and Tune is started again.
    """

    def __init__(self, shared: Shared, folder: Path) -> None:
        """`shared` is what each worker is given; `folder` is Tune's, for this run."""
        self.shared, self.folder = shared, folder
        self.failures = 0
        self.stopping: set[int] = set()
        self.withdrawn: set[int] = set()
        self.held: frozenset[str] = frozenset()
        self.more = False
        self.bundles: queue.SimpleQueue[Bundle] = queue.SimpleQueue()  # that Tune has not taken yet
        self.heard: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self.closed = threading.Event()
        self.taken: set[int] = set()  # numbers of the bundles that Tune has taken and that are not over
        self._open: set[int] = set()  # the numbers of all bundles that are not over
        self._thread: threading.Thread | None = None

    def suggest(self, bundle: Bundle) -> None:
        self._open.add(bundle.number)
        self.bundles.put(bundle)

    def events(self) -> Iterator[Event]:
        """What happened since the last call; waits briefly if nothing did. OSError if Tune cannot be kept
        running."""
        wait = WAIT_SECONDS
        with suppress(queue.Empty):
            while True:
                event = self.heard.get(timeout=wait) if wait else self.heard.get_nowait()
                wait = 0.0
                if isinstance(event, BaseException):
                    yield from self._failed(event)
                    continue
                if isinstance(event, Over):
                    self._open.discard(event.bundle)
                yield event

    def _failed(self, error: BaseException) -> Iterator[Event]:
        """Tune failed, and all of its trials with it."""
        why = _reason(error)
        self.failures += 1
        if self.failures > FAILURES:
            raise OSError(f"Ray Tune fails repeatedly: {why}") from None
        with suppress(queue.Empty):
            while True:
                self.bundles.get_nowait()
        lost, self._open = self._open, set()
        yield from (Over(number, f"Ray Tune failed: {why}") for number in sorted(lost))
        self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End Tune at once. Workers end when the driver disconnects from Ray."""
        self.closed.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    # -- in the thread of Tune

    def _run(self) -> None:
        """Run Tune whenever there are bundles. It ends when it has none, which frees its workers."""
        try:
            if self.failures:
                self.closed.wait(pause(self.failures))
            tune_controller.RayActorManager = type("ActorManager", (_ActorManager,), {"closed": self.closed})
            while not self.closed.is_set():
                if self.bundles.empty():
                    time.sleep(0.02)
                else:
                    self._tune()
        except BaseException as error:  # noqa: BLE001  (the driver's thread raises it in `events`)
            if not self.closed.is_set():
                self.heard.put(error)

    def _tune(self) -> None:
        self.taken.clear()
        tune.run(
            tune.with_resources(tune.with_parameters(train, shared=self.shared), _resources),
            name=f"trainings-{time.time_ns()}",
            storage_path=str(self.folder),
            search_alg=_Bundles(self),
            scheduler=_Decisions(self),
            callbacks=[_Reports(self)],
            num_samples=MANY,
            reuse_actors=True,
            max_failures=0,
            raise_on_failed_trial=False,
            trial_name_creator=_name,
            trial_dirname_creator=_folder,
            progress_reporter=_SilentReporter(),
            verbose=0,
        )
        for number in self.taken:  # Tune reports nothing if a worker cannot be reused
            self.heard.put(Over(number, UNKNOWN))


class _ClosedError(Exception):
    """The sweep has ended."""


class _ActorManager(RayActorManager):
    """Tune's actor manager, with two differences.

    - Every worker that Ray lost has died. For one that Ray's memory monitor killed, Tune would raise a
      RuntimeError, which would end Tune and all workers.
    - Once the sweep has ended, so does Tune, at its next wait. By itself it would wait for its workers, for
      15 seconds if they are training.
    """

    closed: threading.Event

    def next(self, timeout: float | None = None) -> bool:
        if self.closed.is_set():
            raise _ClosedError
        return super().next(WAIT_SECONDS if timeout is None else min(timeout, WAIT_SECONDS))

    def _actor_task_failed(self, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=_reason(exception))
        super()._actor_task_failed(tracked_actor_task=tracked_actor_task, exception=exception)


class _Part:
    """A part of Tune that works for a `Tuning`. It has no state that Tune could write into its snapshots: a
    sweep resumes from our ledger."""

    tuning: Tuning

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Bundles(_Part, SearchGenerator):
    """Suggests the bundles of the driver.

    Once the search is finished, Tune lets workers go that no trial waits for, and ends when no trial is left.
    So the search is finished whenever there is nothing to suggest and nothing is expected soon.
    """

    def __init__(self, tuning: Tuning) -> None:
        super().__init__(_NextBundle(tuning))
        self.tuning = tuning

    def is_finished(self) -> bool:
        return self.tuning.closed.is_set() or (self.tuning.bundles.empty() and not self.tuning.more)

    def save_to_dir(self, dirpath: str, session_str: str) -> None: ...


class _NextBundle(_Part, Searcher):
    """The next bundle, in the form of a Tune configuration."""

    def __init__(self, tuning: Tuning) -> None:
        super().__init__()
        self.tuning = tuning

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        try:
            bundle = self.tuning.bundles.get_nowait()
        except queue.Empty:
            return None
        self.tuning.taken.add(bundle.number)
        return {"bundle": bundle}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None: ...


class _Decisions(_Part, FIFOScheduler):
    """Ends trials that the driver prunes or withdraws, those that begin although others wait for their
    resources, and between two trainings those on a GPU for which others wait. Trials start in the order in
    which they are suggested."""

    def __init__(self, tuning: Tuning) -> None:
        super().__init__()
        self.tuning = tuning

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        bundle: Bundle = trial.config["bundle"]
        messages, held = result.get("messages", ()), self.tuning.held
        begins = any("node" in message for message in messages)
        between = bool(messages) and "rows" not in messages[-1]
        refused = (begins and holds(held, bundle.request)) or (between and holds_gpu(held, bundle.request))
        pruned = not self.tuning.stopping.isdisjoint(order["attempt"] for order in bundle.orders)
        return TrialScheduler.STOP if refused or pruned else TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        if self.tuning.withdrawn:
            waiting = (one for one in tune_controller.get_live_trials() if one.status == Trial.PENDING)
            for trial in [one for one in waiting if _number(one) in self.tuning.withdrawn]:
                tune_controller.stop_trial(trial)
            self.tuning.withdrawn.clear()
        return None  # Tune's own queue has the right order, and does not search all trials


class _Reports(_Part, TrialProgressCallback):
    """Passes on what workers report, and which trials are over. It replaces Tune's own callback, which
    prints."""

    def __init__(self, tuning: Tuning) -> None:
        super().__init__()
        self.tuning = tuning

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Gives the calls of a worker the name of its trial, which Ray's state API and dashboard show."""
        worker = trial.temporary_state.ray_actor
        plain = vars(worker).setdefault("unnamed_train", worker.train)
        worker.train = plain.options(name=_name(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        result.pop("config", None)  # Tune would keep a copy of the bundle for every trial
        if messages := result.pop("messages", None):
            self.tuning.heard.put(Reported(_number(trial), messages))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._over(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._over(trial, _why(trial))

    def _over(self, trial: Trial, why: str) -> None:
        self.tuning.taken.discard(_number(trial))
        self.tuning.heard.put(Over(_number(trial), why))


class _SilentReporter(tune.ProgressReporter):
    """Prints nothing: the display shows what happens."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Trial], done: bool, *sys_info: dict[str, Any]) -> None: ...


def _resources(config: dict[str, Any]) -> PlacementGroupFactory:
    request: Request = config["bundle"].request
    options: dict[str, Any] = {}
    if request.avoid:
        options["bundle_label_selector"] = [{"ray.io/node-id": f"!in({','.join(sorted(request.avoid))})"}]
    return PlacementGroupFactory([{"CPU": request.cpus, "GPU": request.gpus}], **options)


def _number(trial: Trial) -> int:
    return trial.config["bundle"].number


def _name(trial: Trial) -> str:
    return trial.config["bundle"].name


def _folder(trial: Trial) -> str:
    return trial.config["bundle"].folder


def _why(trial: Trial) -> str:
    """Why a worker died, from the error that Tune recorded: that it was killed for memory, or else the last
    line."""
    with suppress(OSError):
        text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
        lines = [line.strip()[:300] for line in text.splitlines()[1:] if line.strip()]
        return next(filter(is_out_of_memory, lines), lines[-1] if lines else UNKNOWN)
    return UNKNOWN


def _reason(error: BaseException) -> str:
    """A Ray error in one line, beginning with its cause."""
    first = error.__cause__ or error
    return f"{type(first).__name__}: {first}".strip().splitlines()[0][:300]
