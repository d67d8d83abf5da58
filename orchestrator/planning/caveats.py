"""Caveats of a plan: what its numbers do not show by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from orchestrator.planning.cells import place
from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.preflight import check_ready
from orchestrator.planning.resources import lacking_here
from orchestrator.planning.snapshot import lack
from orchestrator.planning.spec import is_seed
from poisons.sources.base import Source
from trainers import InputError

MOST = 3  # trials named in a warning


def remarks(plan: Plan) -> list[str]:
    """One line each: how much of the grid is tried, what a scheduler does to means over seeds, which
    probes finished trials lack, and what this machine lacks."""
    run, found = plan.sweep.run, []
    cells = len({place(task.point.labels) for task in plan.tasks})
    if run.search == "optuna":
        most = min(run.num_samples or cells, cells)
        found.append(f"search: optuna tries at most {most} of {cells} cells, each with all of its seeds")
    if run.search == "random":
        found.append(f"search: random tries these {cells} cells of the grid, each with all of its seeds")
    if run.scheduler != "none" and any(map(is_seed, plan.sweep.grid)):
        found.append(
            f"scheduler: {run.scheduler} ends trials early, and stopped trials are not in the means: where "
            "seeds of a cell were stopped, the others' mean is too good; the report says how many were"
        )
    return [*found, *lacking_probes(plan), *_not_installed(plan)]


def places(source: Source) -> list[str]:
    """The folder of a source, if it has one."""
    return [str(getattr(source, name)) for name in source.locators if name == "root"]


def source_remarks(plans: Iterable[Plan]) -> list[str]:
    """One line each: what the sources of plans skip, and how they read what is not obvious."""
    specs = (spec for plan in plans for task in plan.tasks for spec in task.trial.needs)
    sources = (
        (source, spec.split if source is spec.source else "train")
        for spec in specs
        for source in (spec.source, spec.crafted_on)
        if source is not None
    )
    return [
        " ".join(["source", source.kind, *places(source), f"({split}): {line}"])
        for source, split in dict.fromkeys(sources)
        for line in source.survey(split).lines()
    ]


def _not_installed(plan: Plan) -> list[str]:
    """What an evaluation needs and this machine does not have."""
    try:
        check_ready(task.trial for task in plan.missing if task.trains)
    except InputError as error:
        return [f"this machine cannot run all of the trials: {error}"]
    return []


def warnings(plan: Plan) -> list[str]:
    """One line each: where the plan behaves differently from what the file says, or cannot run on this
    machine."""
    return _batches(plan) + _lacking(plan)


def _batches(plan: Plan) -> list[str]:
    """Where the batch size exceeds the subset that is trained on, so that batches are smaller than asked
    for."""
    sizes = {(task.trial.train.batch_size, task.trial.data.limit) for task in plan.missing}
    return [
        f"train.batch_size {size} is larger than data.limit {limit}: each step takes all of the images"
        for size, limit in sorted((size, limit) for size, limit in sizes if limit is not None)
        if size > limit
    ]


def _lacking(plan: Plan) -> list[str]:
    """What missing trials need and this machine lacks."""
    problem = lacking_here(plan.sweep.run) if plan.missing else None
    elsewhere = "or run it on a cluster (--address, opsctl submit)"
    return [f"opsctl sweep on this machine would refuse: {problem}, {elsewhere}"] if problem else []


def lacking_probes(plan: Plan) -> list[str]:
    """Which probes finished trials lack, and whether kept weights suffice to run them or the trials have
    to be trained again, and why."""
    tasks = [task for task in plan.missing if task.trained]
    if not tasks:
        return []
    names = Counter(planned.name for task in tasks for planned in task.missing_probes)
    probes = ", ".join(lack(count, name) for name, count in names.items())
    again = [task for task in tasks if task.trains]
    probed = [task for task in tasks if not task.trains]
    found = [f"of the trials already done {probes}"]
    if probed:
        count = sum(len(task.missing_probes) for task in probed)
        found.append(f"{count} probe{'s run' if count > 1 else ' runs'} from kept weights, without training")
    for watching in dict.fromkeys(map(_watching, again)):
        verb = "need" if " and " in watching else "needs"
        these = [task for task in again if _watching(task) == watching]
        why = f"{watching} {verb} every epoch (kept weights are too late)"
        whose = "their" if len(these) > 1 else "its"
        found.append(_again(these, why if watching else f"{whose} weights were not kept"))
    return found


def _watching(task: Task) -> str:
    """The names of the probes that a trial lacks and that observe every epoch."""
    return " and ".join(planned.name for planned in task.missing_probes if planned.probe.watches)


def _again(tasks: Sequence[Task], why: str) -> str:
    names = [task.point.name for task in tasks[:MOST]]
    names += [f"and {len(tasks) - MOST} more"] if len(tasks) > MOST else []
    trials = "trial" if len(tasks) == 1 else "trials"
    return f"{len(tasks)} {trials} must be trained again because {why}: {'; '.join(names)}"
