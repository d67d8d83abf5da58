"""The data sets of a plan as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from orchestrator.estimates.duration import duration
from orchestrator.planning.plan import Plan


def plan_table(plan: Plan, seconds: Mapping[str, float]) -> Table:
    """The data sets that a plan needs, and whether the store has them. `seconds` (by name) are estimates of
    how long they take to build."""
    rich = Table("data set", "key", "state", "takes about", box=None, padding=(0, 2, 0, 0))
    for spec in plan.data:
        name = spec.name.removesuffix(f"-{spec.key}")
        state = "in the store" if spec.name in plan.ready else Text("to build", "yellow")
        takes = duration(seconds[spec.name]) if spec.name in seconds else ""
        rich.add_row(name, spec.key, state, takes)
    return rich
