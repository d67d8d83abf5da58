"""The lanes as Tune sees them: long trials, each with its share of the cluster, started again when they die.

Tune runs in a thread of its own. It places lanes, and asks a cluster that can grow for machines; which trial
a lane runs is the driver's to say.
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
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from orchestrator.engine.lane import Shared, lane

MANY = 10**9
CLOSE_SECONDS = 2.0  # that Tune is given to end all lanes; those at work then go with the connection to Ray


class Lanes:
    """Orders lanes, and tells which have died or ended; from `with` to its end. Used from one thread."""

    def __init__(self, shared: Shared, folder: Path, *, cpus: float) -> None:
        """`shared` is what each lane is given; `folder` is Tune's, for this run; `cpus` are a lane's."""
        self.open: dict[int, float] = {}  # number of every lane that is to be -> its share of a GPU
        self._numbers = 0
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[tuple[int, bool, str]] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(shared, folder, cpus), name="tune", daemon=True
        )
        self._thread.start()

    @property
    def shares(self) -> Counter[float]:
        """How many lanes there are, or will be, of each share."""
        return Counter(self.open.values())

    def order(self, share: float) -> None:
        """Have one more lane with that share of a GPU, as soon as there is room."""
        self._numbers += 1
        self.open[self._numbers] = share
        self._orders.put({"number": self._numbers, "share": share})

    def lost(self) -> Iterator[tuple[int, str]]:
        """Numbers of lanes whose process died since the last call, and why, which Tune starts again; and of
        those that have ended. Raises what Tune raised, if it did."""
        while not self._news.empty():
            number, ended, why = self._news.get()
            if ended:
                self.open.pop(number, None)
            if why or ended:
                yield number, why
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End all lanes, whatever they do."""
        self._closed.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self, shared: Shared, folder: Path, cpus: float) -> None:
        def wants(config: dict[str, Any]) -> PlacementGroupFactory:
            return PlacementGroupFactory([{"CPU": cpus, "GPU": config["share"]}])

        try:
            tune.run(
                tune.with_resources(tune.with_parameters(lane, shared=shared), wants),
                name="lanes",
                storage_path=str(folder),
                search_alg=_Feed(self._orders, self._closed),
                num_samples=MANY,
                callbacks=[_Ears(self._news)],
                stop=_Brake(self._closed),
                max_failures=-1,
                raise_on_failed_trial=False,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
                progress_reporter=_Silence(),
                verbose=0,
            )
        except BaseException as error:  # noqa: BLE001  (it is raised again in the driver's thread)
            if not self._closed.is_set():
                self._error = error


class _Unsaved:
    """What Tune would write into its snapshots and must not: our ledger is what a sweep resumes from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Feed(_Unsaved, SearchGenerator):
    """Gives Tune a lane for every order; it is never finished before it is closed."""

    def __init__(self, orders: queue.SimpleQueue[dict[str, Any]], closed: threading.Event) -> None:
        super().__init__(_Orders(orders))
        self.closed = closed

    def is_finished(self) -> bool:
        return self.closed.is_set()

    def save_to_dir(self, dirpath: str, session_str: str) -> None: ...


class _Orders(_Unsaved, Searcher):
    """An order as what Tune calls a configuration."""

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


class _Ears(_Unsaved, TrialProgressCallback):
    """Passes on which lanes died (with a reason) and which ended. It stands where Tune's own callback would,
    which prints."""

    def __init__(self, news: queue.SimpleQueue[tuple[int, bool, str]]) -> None:
        super().__init__()
        self.news = news

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None: ...

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.news.put((trial.config["number"], False, _why(trial)))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.news.put((trial.config["number"], True, ""))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.news.put((trial.config["number"], True, _why(trial)))


class _Brake(_Unsaved, tune.Stopper):
    """Ends every lane once they are closed."""

    def __init__(self, closed: threading.Event) -> None:
        self.closed = closed

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.closed.is_set()


class _Silence(tune.ProgressReporter):
    """The display tells what happens."""

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Trial], done: bool, *sys_info: dict[str, Any]) -> None: ...


def _name(trial: Trial) -> str:
    return f"lane-{trial.config['number']}"


def _why(trial: Trial) -> str:
    """The last line of what Tune wrote down about the death of a lane."""
    with suppress(OSError):
        lines = Path(trial.error_file).read_text().strip().splitlines()
        return lines[-1].strip()[:300] if lines else "no reason is known"
    return "no reason is known"
