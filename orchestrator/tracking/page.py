"""A sweep in the MLflow UI: its question, example filters, and a saved view of its trials."""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.planning.plan import Plan
from orchestrator.tracking.links import TRIALS, VIEW_TAG
from trainers.printable import as_markdown

NOTE = "mlflow.note.content"
VIEW = VIEW_TAG + TRIALS  # the tag that holds the view
SHOWN = ("test/peak_clean_acc", "train/acc")  # columns besides the sweep's own metrics


def tags(plan: Plan) -> dict[str, str]:
    """The tags of the experiment that the UI shows."""
    return {NOTE: guide(plan), VIEW: view(plan)}


def view(plan: Plan) -> str:
    """All trials in one flat table, best first, with the axes and the main metrics.

    Without it the UI collapses all trials below the sweep's run and shows none of their metrics.
    """
    metric, *others = plan.sweep.report.measured
    named = [f"tags.`axis.{axis}`" for axis in plan.sweep.grid]
    measured = [f"metrics.`{name}`" for name in dict.fromkeys((metric, *others, *SHOWN))]
    state = {
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": plan.sweep.run.mode == "min",
        "searchFilter": "",
        "selectedColumns": [*measured, *named],
    }
    return saved_view(TRIALS, state)


def saved_view(name: str, state: Mapping[str, object]) -> str:
    """A view in MLflow's own format: the sort order and the columns of the table."""
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def guide(plan: Plan) -> str:
    """The description of a sweep's experiment: its question, and example filters."""
    lines = [
        as_markdown(plan.sweep.question),
        "",
        "One run per trial, below the run that is named like the sweep. The tags `axis.*` give its place in "
        "the grid; its parameters are named by their paths in the sweep file. Under Views, `trials` is a "
        "flat table, best first. Example filters for the search field:",
        "",
        *(f"    {example}" for example in examples(plan)),
    ]
    return "\n".join(lines)


def examples(plan: Plan) -> tuple[str, str]:
    """Two example filters for this sweep's runs."""
    axis, value = next(iter(plan.tasks[0].point.labels.items()))
    quote = "'" if '"' in value else '"'
    metric = plan.sweep.report.measured[0]
    return (
        f"tags.`axis.{axis}` = {quote}{value}{quote}",
        f"metrics.`{metric}` > 0.5 AND attributes.status = 'FINISHED'",
    )
