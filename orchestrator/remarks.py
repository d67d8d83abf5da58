"""What the numbers of a plan do not say by themselves."""

from __future__ import annotations

from orchestrator.cells import place
from orchestrator.plan import Plan
from orchestrator.resources import lacking, local_resources
from orchestrator.spec import is_seed


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


def warnings(plan: Plan) -> list[str]:
    """What of a plan works otherwise than it is written, or not on this machine; one line each."""
    return _batches(plan) + _lacking(plan)


def _batches(plan: Plan) -> list[str]:
    """Where a batch is larger than the subset that is trained on, and so not what it says."""
    sizes = {(task.trial.train.batch_size, task.trial.data.limit) for task in plan.missing}
    return [
        f"train.batch_size {size} is larger than data.limit {limit}: each step takes all of the images"
        for size, limit in sorted((size, limit) for size, limit in sizes if limit is not None)
        if size > limit
    ]


def _lacking(plan: Plan) -> list[str]:
    """What the trials that are missing ask for and this machine lacks."""
    problem = lacking(plan.sweep.run, local_resources()) if plan.missing else None
    elsewhere = "or run it on a cluster (--address, opsctl submit)"
    return [f"opsctl sweep on this machine would refuse: {problem}, {elsewhere}"] if problem else []


def _looks(plan: Plan) -> list[str]:
    """`3 of the trials to run are done but for looks: 2 with kept weights to look at, 1 to be trained
    again`"""
    tasks = [task for task in plan.missing if task.trained]
    again = sum(task.trains for task in tasks)
    ways = {"with kept weights to look at": len(tasks) - again, "to be trained again": again}
    parts = [f"{count} {way}" for way, count in ways.items() if count]
    return [f"{len(tasks)} of the trials to run are done but for looks: {', '.join(parts)}"] if tasks else []
