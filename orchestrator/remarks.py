"""What the numbers of a plan do not say by themselves."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.cells import place
from orchestrator.plan import Plan
from orchestrator.spec import is_seed
from poisons.sources.base import Source


def remarks(plan: Plan) -> list[str]:
    """How much of the grid is tried, what a scheduler does to means over seeds, and how many trials are done
    but for looks; one line each."""
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
    return found + _looks(plan)


def places(source: Source) -> list[str]:
    """The folder of a source that lies in one."""
    return [str(getattr(source, name)) for name in source.locators if name == "root"]


def source_remarks(plans: Iterable[Plan]) -> list[str]:
    """What the sources of plans do not read, and how they read what is not obvious; one line each."""
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


def _looks(plan: Plan) -> list[str]:
    """`3 of the trials to run are done but for looks: 2 with kept weights to look at, 1 to be trained
    again`"""
    tasks = [task for task in plan.missing if task.trained]
    again = sum(task.trains for task in tasks)
    ways = {"with kept weights to look at": len(tasks) - again, "to be trained again": again}
    parts = [f"{count} {way}" for way, count in ways.items() if count]
    return [f"{len(tasks)} of the trials to run are done but for looks: {', '.join(parts)}"] if tasks else []
