"""A batch of sweeps that are planned together: trials and data sets that they share count once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.planning.cells import digest
from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.trial_budget import Bound
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec
from trainers.spec import flatten, identity


@dataclass(frozen=True)
class Batch:
    """The plans of several sweeps against one store."""

    plans: tuple[Plan, ...]

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Every trial once, in the order of the sweeps. If any sweep would run it, it counts as missing."""
        found: dict[str, Task] = {}
        for task in (task for plan in self.plans for task in plan.tasks):
            if task.key not in found or (task.missing and not found[task.key].missing):
                found[task.key] = task
        return tuple(found.values())

    @property
    def points(self) -> int:
        """The number of points of all grids; shared ones count in each."""
        return sum(len(plan.tasks) for plan in self.plans)

    @property
    def shared(self) -> int:
        """The number of points whose trial an earlier sweep has too."""
        return self.points - len(self.tasks)

    @cached_property
    def single_seed(self) -> int:
        """The number of trials if each were trained with a single seed."""
        return len({_but_for_the_seed(task.trial) for task in self.tasks})

    @cached_property
    def most(self) -> int:
        """How many trials may run; for a guided search, at most."""
        return len(self.sure) + sum(self._more(plan) for plan in self.plans)

    @cached_property
    def sure(self) -> frozenset[str]:
        """The keys of the trials that run whatever a search decides."""
        return frozenset[str]().union(*(plan.sure for plan in self.plans))

    def _more(self, plan: Plan) -> int:
        """How many trials a search may run beyond the sure ones."""
        return min(plan.most - len(plan.sure), len({task.key for task in plan.missing} - self.sure))

    @property
    def done(self) -> int:
        return sum(task.done for task in self.tasks)

    @cached_property
    def whole(self) -> Plan:
        """All of it as one plan, with the run settings of the first sweep."""
        first = self.plans[0]
        ready = frozenset(name for plan in self.plans for name in plan.ready)
        data = tuple(_each_once(spec for plan in self.plans for spec in plan.data))
        bound = Bound(self.sure, self.most)
        return replace(first, tasks=self.tasks, data=data, ready=ready, version="", quota=None, bound=bound)

    def lines(self) -> list[str]:
        """A summary of the batch, in lines."""
        points = f"{self.points} trials in {len(self.plans)} sweeps, {self.shared} of them shared"
        return [
            f"{points}: {len(self.tasks)} in all, {self.single_seed} if each had one seed",
            f"{self.whole.work}, {self.whole.finished} trials already done",
        ]

    def of(self, plan: Plan) -> str:
        """A summary of one of the plans: `54 trials (3 shared with those above): 51 to run, 3 done`."""
        above = {task.key for one in _before(self.plans, plan) for task in one.tasks}
        shared = sum(task.key in above for task in plan.tasks)
        note = f" ({shared} shared with those above)" if shared else ""
        return f"{len(plan.tasks)} trials{note}: {plan.trials_left()}, {plan.finished} done"


def _before(plans: Sequence[Plan], plan: Plan) -> Sequence[Plan]:
    return plans[: next(i for i, one in enumerate(plans) if one is plan)]


def _each_once(specs: Iterable[DataSpec]) -> Iterable[DataSpec]:
    return {spec.name: spec for spec in specs}.values()


def _but_for_the_seed(trial: TrialSpec) -> str:
    """What a trial is but for the seed of its training; draws of a poison stay apart."""
    return digest({path: leaf for path, leaf in flatten(identity(trial)).items() if path != "seed"})
