"""The workers as Tune trials: long-running, each with its share of the cluster, restarted when they die.

Tune runs in a thread of its own. It places workers, and asks a cluster that can grow for machines; the driver
decides which trial a worker runs.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
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
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from orchestrator.execution.faults import is_out_of_memory
from orchestrator.execution.ray.worker import Shared, worker
from orchestrator.storage.backoff import pause

MANY = 10**9
FAILURES = 5  # of Tune itself, in a row, before any worker requests a trial
UNKNOWN = "no reason is known"
CLOSE_SECONDS = 2.0  # that Tune has to end all workers; disconnecting from Ray ends the rest


class Workers:
    """Starts workers and reports which have died or ended; from `with` to its end. Used from one thread.

    If Tune itself fails, all workers are lost, and Tune is started again.
    """

    def __init__(self, shared: Shared, folder: Path, *, cpus: float) -> None:
        """`shared` is what each worker is given; `folder` is Tune's, for this run; `cpus` are a worker's."""
        self.shared, self.folder, self.cpus = shared, folder, cpus
        self.open: dict[int, float] = {}  # number of each ordered or existing worker -> its share of a GPU
        self.failures = 0  # of Tune, since a worker last requested a trial; the dispatcher resets it
        self._numbers = self._runs = 0
        self._closed = threading.Event()
        self._start()

    @property
    def shares(self) -> Counter[float]:
        """The number of workers that exist or are ordered, by share."""
        return Counter(self.open.values())

    def order(self, share: float) -> None:
        """Start one more worker with that share of a GPU, as soon as there is room."""
        self._numbers += 1
        self.open[self._numbers] = share
        self._orders.put({"number": self._numbers, "share": share})

    def ended(self) -> Iterator[tuple[int, str]]:
        """The numbers of workers whose process died since the last call, with the reason, which Tune
        restarts; and of those that ended. OSError if Tune cannot be kept running."""
        while not self._events.empty():
            number, ended, why = self._events.get()
            if ended:
                self.open.pop(number, None)
            if why or ended:
                yield number, why
        if self._error is not None:
            why = _reason(self._error)
            self.failures += 1
            if self.failures > FAILURES:
                raise OSError(f"Ray Tune fails repeatedly: {why}") from None
            numbers = list(self.open)
            self.open.clear()
            self._start()
            yield from ((number, f"Ray Tune failed: {why}") for number in numbers)

    def _start(self) -> None:
        """Run Tune in a thread of its own, without any worker."""
        self._runs += 1
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[tuple[int, bool, str]] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End all workers at once."""
        self._closed.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        cpus = self.cpus  # `wants` is pickled, and `self` cannot be

        def wants(config: dict[str, Any]) -> PlacementGroupFactory:
            return PlacementGroupFactory([{"CPU": cpus, "GPU": config["share"]}])

        try:
            if self.failures:
                self._closed.wait(pause(self.failures))
            tune_controller.RayActorManager = _ActorManager
            tune.run(
                tune.with_resources(tune.with_parameters(worker, shared=self.shared), wants),
                name=f"workers-{self._runs}",
                storage_path=str(self.folder),
                search_alg=_WorkerGenerator(self._orders, self._closed),
                num_samples=MANY,
                callbacks=[_WorkerCallback(self._events)],
                stop=_CloseStopper(self._closed),
                max_failures=-1,
                raise_on_failed_trial=False,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
                progress_reporter=_SilentReporter(),
                verbose=0,
            )
        except BaseException as error:  # noqa: BLE001  (the driver's thread raises it in `ended`)
            if not self._closed.is_set():
                self._error = error


class _ActorManager(RayActorManager):
    """Tune's actor manager, for which every worker that Ray lost has died. For one that Ray's memory
    monitor killed, Tune would raise a RuntimeError, which would end Tune and all workers."""

    def _actor_task_failed(self, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=_reason(exception))
        super()._actor_task_failed(tracked_actor_task=tracked_actor_task, exception=exception)


class _Unsaved:
    """State that Tune must not write into its snapshots: a sweep resumes from our ledger."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _WorkerGenerator(_Unsaved, SearchGenerator):
    """Gives Tune a worker for every order; it is not finished before it is closed."""

    def __init__(self, orders: queue.SimpleQueue[dict[str, Any]], closed: threading.Event) -> None:
        super().__init__(_OrderSearcher(orders))
        self.closed = closed

    def is_finished(self) -> bool:
        return self.closed.is_set()

    def save_to_dir(self, dirpath: str, session_str: str) -> None: ...


class _OrderSearcher(_Unsaved, Searcher):
    """An order, in the form of a Tune configuration."""

    def __init__(self, orders: queue.SimpleQueue[dict[str, Any]]) -> None:
        super().__init__()
        self.orders = orders

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        try:
            return self.orders.get_nowait()
        except queue.Empty:
            return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None: ...


class _WorkerCallback(_Unsaved, TrialProgressCallback):
    """Reports which workers died (with a reason) and which ended. It replaces Tune's own callback, which
    prints."""

    def __init__(self, events: queue.SimpleQueue[tuple[int, bool, str]]) -> None:
        super().__init__()
        self.events = events

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None: ...

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.events.put((trial.config["number"], False, _why(trial)))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.events.put((trial.config["number"], True, ""))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.events.put((trial.config["number"], True, _why(trial)))


class _CloseStopper(_Unsaved, tune.Stopper):
    """Ends every worker once they are closed."""

    def __init__(self, closed: threading.Event) -> None:
        self.closed = closed

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.closed.is_set()


class _SilentReporter(tune.ProgressReporter):
    """Prints nothing: the display shows what happens."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Trial], done: bool, *sys_info: dict[str, Any]) -> None: ...


def _name(trial: Trial) -> str:
    return f"worker-{trial.config['number']}"


def _why(trial: Trial) -> str:
    """Why a worker died, from the last error that Tune recorded: that it was killed for memory, or else
    the last line."""
    with suppress(OSError):
        text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
        lines = [line.strip()[:300] for line in text.splitlines()[1:] if line.strip()]
        return next(filter(is_out_of_memory, lines), lines[-1] if lines else UNKNOWN)
    return UNKNOWN


def _reason(error: BaseException) -> str:
    """A Ray error in one line, beginning with its cause."""
    first = error.__cause__ or error
    return f"{type(first).__name__}: {first}".strip().splitlines()[0][:300]
