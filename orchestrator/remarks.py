"""What the numbers of a plan do not say by themselves."""

from __future__ import annotations

from orchestrator.cells import place
from orchestrator.plan import Plan
from orchestrator.spec import is_seed


def remarks(plan: Plan) -> list[str]:
    """How much of the grid is tried, and what a scheduler does to means over seeds; one line each."""
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
    return found
