"""Which trials end early because others are ahead of them: `scheduler: asha | median`. Imports no ray.

Trials are compared at the same epoch, and only with trials that train for as many, whatever their cell and
seed. `asha`, asynchronous successive halving (Li et al., MLSys 2020), keeps of those that came to epochs g,
3 g, 9 g, ... the best third; `median` ends a trial that was never better than the median of five or more
finished ones at its epoch. Neither judges before a tenth of the epochs, nor after the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import optuna
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import Trial, TrialState

from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result, Stopped
from trainers.families import Metrics

REDUCTION = 3  # one in this many trials continues
STARTUP = 5  # finished trials needed for a meaningful median
GRACE = 10  # no trial is pruned before 1/GRACE of its epochs

optuna.logging.set_verbosity(optuna.logging.WARNING)  # libraries report, they do not print


@dataclass
class Curve:
    """What is known about one trial."""

    trial: Trial  # optuna's
    values: dict[int, float] = field(default_factory=dict)  # by epoch
    ended: bool | None = None  # once it has ended: whether early


class Pruner:
    """Prunes nothing. All calls come from one thread."""

    @classmethod
    def of(cls, plan: Plan, ledger: Ledger) -> Pruner:
        """The pruner that the sweep asks for."""
        return OptunaPruner(plan, ledger) if plan.sweep.run.scheduler != "none" else Pruner()

    def report(self, task: Task, epoch: int, row: Metrics) -> bool:
        """Whether a trial should end now, after this row of its history. Rows that were reported before, as
        by a trial that was killed and resumed, change nothing."""
        return False

    def verdict(self, task: Task, row: Metrics) -> Stopped:
        """The record for the ledger of a trial that was pruned after `row`."""
        raise AssertionError("no trial ends early without a scheduler")

    def learn(self, task: Task, record: Result | Stopped) -> None:
        """A trial ended, pruned or not, with this record: add the epochs that were not reported here, because
        it ran elsewhere or a report was lost."""


class OptunaPruner(Pruner):
    """Compares the trials of the sweep with each other, including finished and pruned ones in the ledger."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        """Raises OSError if the ledger does not answer."""
        self.sweep = plan.sweep
        self.metric = plan.sweep.report.metric
        self.curves: dict[str, Curve] = {}
        self.studies: dict[int, optuna.Study] = {}  # by number of epochs
        for task in plan.tasks:
            if task.trained or task.left == "stopped":
                record = ledger.result(task.key) or ledger.stopped(task.key)
                if record is not None:
                    self.learn(task, record)

    def report(self, task: Task, epoch: int, row: Metrics) -> bool:
        curve = self._curve(task)
        if curve.ended is None and epoch not in curve.values:
            curve.ended = self._judged(task, curve, epoch, row[self.metric])
        return bool(curve.ended)

    def verdict(self, task: Task, row: Metrics) -> Stopped:
        values = self.curves[task.key].values
        return {
            "epoch": int(row["epoch"]),
            "metric": self.metric,
            "value": row[self.metric],
            "scheduler": self.sweep.run.scheduler,
            "sweep": self.sweep.name,
            "history": [{"epoch": float(epoch), self.metric: value} for epoch, value in values.items()],
        }

    def learn(self, task: Task, record: Result | Stopped) -> None:
        curve = self._curve(task)
        if curve.ended is not None:
            return
        for row in record.get("history", ()):
            # a record from a sweep with another metric lacks it
            if self.metric in row and int(row["epoch"]) not in curve.values:
                curve.values[int(row["epoch"])] = row[self.metric]
                curve.trial.report(row[self.metric], int(row["epoch"]))
                curve.trial.should_prune()  # only for its effect: the trial joins the comparison
        self._end(curve, early="metrics" not in record)

    def _judged(self, task: Task, curve: Curve, epoch: int, value: float) -> bool | None:
        """True if it is pruned, False if this was its last epoch, None if it continues."""
        curve.values[epoch] = value
        curve.trial.report(value, epoch)
        hopeless = curve.trial.should_prune()
        last = epoch >= task.trial.train.epochs
        if last or hopeless:
            self._end(curve, early=not last)
            return not last
        return None

    def _end(self, curve: Curve, *, early: bool) -> None:
        curve.ended = early
        study = curve.trial.study
        if early or not curve.values:
            study.tell(curve.trial, state=TrialState.PRUNED if curve.values else TrialState.FAIL)
        else:
            study.tell(curve.trial, curve.values[max(curve.values)])

    def _curve(self, task: Task) -> Curve:
        if task.key not in self.curves:
            self.curves[task.key] = Curve(self._study(task.trial.train.epochs).ask())
        return self.curves[task.key]

    def _study(self, epochs: int) -> optuna.Study:
        if epochs not in self.studies:
            self.studies[epochs] = optuna.create_study(
                direction="maximize" if self.sweep.run.mode == "max" else "minimize",
                pruner=_pruner(self.sweep.run, epochs),
                sampler=optuna.samplers.RandomSampler(seed=0),  # unused: there is nothing to sample
            )
        return self.studies[epochs]


def _pruner(run: RunSpec, epochs: int) -> BasePruner:
    grace = math.ceil(epochs / GRACE)
    if run.scheduler == "asha":
        return SuccessiveHalvingPruner(min_resource=grace, reduction_factor=REDUCTION)
    return MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=grace)
