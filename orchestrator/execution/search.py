"""Which trials of a plan are run, as results arrive. Imports no ray.

A grid, or a sample that was drawn when it was planned, runs whole. `search: optuna` tries cell after cell,
each with all of its seeds; its value is their mean, and optuna (a Parzen estimator, TPE, over the labels of
the axes) suggests the next. The n-th cell of such a search is written down in the storage as
`searches/<key>/<n>`: drivers that share storage share the search, and an interrupted one continues with
the cells that it had begun.
"""

from __future__ import annotations

import random
import statistics
from collections import deque
from dataclasses import dataclass, field

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import Trial, TrialState

from orchestrator.planning.cells import Place, digest, labels_of, place
from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.ledger import Ledger, with_findings
from orchestrator.storage.records import Stopped

STARTUP = 10  # random cells before TPE takes over; a third of the sample if that is fewer

optuna.logging.set_verbosity(optuna.logging.WARNING)  # libraries report, they do not print


class Search:
    """Runs every missing trial of the plan. All calls come from one thread."""

    def __init__(self, plan: Plan) -> None:
        self.left = list(plan.missing)

    @classmethod
    def of(cls, plan: Plan, ledger: Ledger) -> Search:
        """The search that the sweep asks for."""
        return OptunaSearch(plan, ledger) if plan.sweep.run.search == "optuna" else Search(plan)

    def ask(self, room: int) -> list[Task]:
        """Trials to run. None is given twice; where there are none, there may be more once others have ended.

        A guided search gives whole cells until `room` trials are given and have not ended; a plain one gives
        all there are.
        """
        given, self.left = self.left, []
        return given

    def tell(self, task: Task, value: float | None, stop: Stopped | None = None) -> None:
        """A trial has ended with this value of the report's metric; None if it failed, or was stopped, as
        recorded in `stop`."""


@dataclass
class Candidate:
    """A cell that may be tried, and the state of its trials."""

    labels: dict[str, str]
    tasks: list[Task] = field(default_factory=list)
    open: set[str] = field(default_factory=set)  # keys of trials that have not ended
    values: dict[str, float] = field(default_factory=dict)  # of finished trials
    stops: list[tuple[int, float]] = field(default_factory=list)  # of pruned trials: epoch, value
    trial: Trial | None = None  # optuna's, once the cell is begun
    reported: bool = False

    @property
    def passed_over(self) -> bool:
        """Whether it will not be tried: the search has begun as many cells as it may."""
        return any(task.left == "untried" for task in self.tasks)


class OptunaSearch(Search):
    """A search guided by optuna. Cells that are complete already, whoever ran them, cost nothing and count
    as tried. Raises OSError if storage does not answer."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.storage, self.metric = ledger.storage, plan.sweep.report.metric
        self.cells = _cells(plan, ledger)
        self.ids = {digest(cell.labels): cell for cell in self.cells.values()}
        assert plan.quota is not None
        self.most, self.key = plan.quota.most, plan.quota.search
        seed = int(self.key[:8], 16)
        order = list(self.cells)
        random.Random(seed).shuffle(order)
        self.untried = dict.fromkeys(order)
        self.slots = 0  # how many cells of this search were found in the storage
        self.begun: deque[Candidate] = deque()  # those of them whose trials this driver has not returned yet
        self.out: set[str] = set()  # keys of trials that were returned and have not ended
        self.axes = _axes(list(self.cells.values()))
        self.study = optuna.create_study(
            direction="maximize" if plan.sweep.run.mode == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(STARTUP, 1 + self.most // 3)),
        )
        for cell in self.cells.values():
            if not cell.open and not cell.passed_over:
                self._begin(cell)
        self._read_begun()

    @property
    def tried(self) -> int:
        """The number of cells that were begun."""
        return len(self.cells) - len(self.untried)

    def ask(self, room: int) -> list[Task]:
        given: list[Task] = []
        while len(self.out) < room:
            try:
                cell = self._next()
            except OSError:
                if not given:  # else return the trials found so far first
                    raise
                break
            if cell is None:
                break
            tasks = [task for task in cell.tasks if task.key in cell.open]
            self.out.update(task.key for task in tasks)
            given += tasks
        return given

    def tell(self, task: Task, value: float | None, stop: Stopped | None = None) -> None:
        cell = self.cells[place(task.point.labels)]
        self.out.discard(task.key)
        if task.key not in cell.open:
            return
        cell.open.discard(task.key)
        if value is not None:
            cell.values[task.key] = value
        elif stop is not None and stop["metric"] == self.metric:
            cell.stops.append((stop["epoch"], stop["value"]))
        self._close(cell)

    def _next(self) -> Candidate | None:
        """A cell whose trials come next, or None."""
        while not self.begun and self.untried and self.tried < self.most:
            name = f"searches/{self.key}/{self.slots}"
            self.storage.create(name, digest(self._suggested().labels).encode())
            self._read_begun()  # read it back: another driver may have been first
        return self.begun.popleft() if self.begun else None

    def _read_begun(self) -> None:
        """Add the cells that other drivers have begun since."""
        while (found := self.storage.read(f"searches/{self.key}/{self.slots}")) is not None:
            self.slots += 1
            cell = self.ids.get(found.decode())
            if cell is not None and cell.trial is None:
                self.begun.append(cell)
                self._begin(cell)

    def _begin(self, cell: Candidate) -> None:
        del self.untried[place(cell.labels)]
        self.study.enqueue_trial(dict(cell.labels))
        cell.trial = self.study.ask(self.axes)
        self._close(cell)

    def _suggested(self) -> Candidate:
        """The untried cell that optuna suggests, or else the one that differs from it on the fewest axes."""
        idea = self.study.ask(self.axes)
        self.study.tell(idea, state=TrialState.FAIL)  # `_begin` creates the cell's own trial
        wanted = tuple(idea.params[axis] for axis in self.axes)
        near = min(self.untried, key=lambda cell: sum(a != b for a, b in zip(cell, wanted, strict=True)))
        return self.cells[near]

    def _close(self, cell: Candidate) -> None:
        """Report the value of a cell to optuna once all of its trials have ended.

        A pruned trial counts with the value that it had when it was pruned: it would have ended higher, but
        without it only the survivors would count. A cell without survivors ranks below all cells with some.
        This value guides the search; no report shows it.
        """
        if cell.trial is None or cell.open or cell.reported:
            return
        cell.reported = True
        if cell.values:
            values = [*cell.values.values(), *(value for _, value in cell.stops)]
            self.study.tell(cell.trial, statistics.fmean(values))
        elif cell.stops:
            epoch, value = max(cell.stops)
            cell.trial.report(value, epoch)
            self.study.tell(cell.trial, state=TrialState.PRUNED)
        else:
            self.study.tell(cell.trial, state=TrialState.FAIL)


def _cells(plan: Plan, ledger: Ledger) -> dict[Place, Candidate]:
    """Every cell of the plan, in its order, with what is known about its trials."""
    metric, cells = plan.sweep.report.metric, dict[Place, Candidate]()
    done = {task.key: task.probe_keys for task in plan.tasks if task.done}
    found = ledger.finding_summaries(done)
    results = {key: with_findings(record, found[key]) for key, record in ledger.summaries(done).items()}
    for task in plan.tasks:
        labels = labels_of(task.point)
        cell = cells.setdefault(place(labels), Candidate(labels))
        cell.tasks.append(task)
        if task.key in results:
            cell.values[task.key] = results[task.key]["metrics"][metric]
        elif task.missing:
            cell.open.add(task.key)
        elif task.left == "stopped" and (stop := ledger.stopped(task.key)) and stop["metric"] == metric:
            cell.stops.append((stop["epoch"], stop["value"]))
    return cells


def _axes(cells: list[Candidate]) -> dict[str, BaseDistribution]:
    return {
        axis: CategoricalDistribution(list(dict.fromkeys(cell.labels[axis] for cell in cells)))
        for axis in cells[0].labels
    }
