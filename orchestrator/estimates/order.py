"""The order of work: long trials first, and data sets first that much work waits for. Pure.

Longest first is Graham's rule (SIAM J. Appl. Math. 17, 1969): with m slots and trials that are all ready it
takes at most 4/3 - 1/(3m) of the least time possible; in the order of a file it may take twice that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.planning.plan import Task
from poisons import DataSpec


def order_trials(tasks: Iterable[Task], seconds: Mapping[str, float]) -> list[Task]:
    """The tasks by `seconds` (by key), longest first; equal ones in their order."""
    return sorted(tasks, key=lambda task: -seconds[task.key])


def waiting_seconds(
    data: Sequence[DataSpec], tasks: Iterable[Task], seconds: Mapping[str, float]
) -> dict[str, float]:
    """For each data set, by name, the seconds of all trials that cannot start without it: those that read it,
    and those that read what is made from it, each once. `data` holds parents before children."""
    behind: dict[str, frozenset[str]] = {}
    for spec in data:
        above = [behind.get(parent.name, frozenset()) for parent in spec.parents]
        behind[spec.name] = frozenset([spec.name]).union(*above)
    waiting = dict.fromkeys(behind, 0.0)
    for task in tasks:
        for name in frozenset[str]().union(*(behind.get(need, frozenset()) for need in task.needs)):
            waiting[name] += seconds[task.key]
    return waiting


def order_data(specs: Iterable[DataSpec], waiting: Mapping[str, float]) -> list[DataSpec]:
    """The data sets by the seconds of work that wait for them (by name), most first; equal ones in their
    order, so that parents stay before children."""
    return sorted(specs, key=lambda spec: -waiting.get(spec.name, 0.0))
