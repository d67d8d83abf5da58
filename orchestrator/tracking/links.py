"""Links into the MLflow UI, each to the table of one experiment's runs.

A link names the experiment, the workflow type and a saved view. Without the workflow type, a browser that has
never opened MLflow shows traces of language models instead; without the view, all trials are collapsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

from mlflow.entities import Experiment, ViewType

from orchestrator.tracking.connection import Connection

VIEW_TAG = "mlflow.sharedViewState."  # plus a view's key: the experiment tag that holds the view
TRIALS, DATA_SETS = "trials", "data_sets"  # the keys of our views


@dataclass(frozen=True)
class Link:
    """A link to the table of an experiment's runs."""

    experiment: str  # its name
    url: str


def table_url(server: str, experiment_id: str, view: str) -> str:
    """The URL of an experiment's table of runs with a saved `view`, in the UI at `server`."""
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": view})
    return f"{without_user(server)}/#/experiments/{experiment_id}/runs?{query}"


def without_user(server: str) -> str:
    """The address of a server without user, password and trailing slash."""
    parts = urlsplit(server)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def links(connection: Connection, server: str) -> list[Link]:
    """Links to all experiments with one of our views: first the sweep that ran last, then the others, newest
    first, and the data sets at the end. The connection must be open. Raises one of TROUBLE."""
    found: dict[str, tuple[Experiment, str]] = {}
    for experiment in _experiments(connection):
        for view in (TRIALS, DATA_SETS):
            if VIEW_TAG + view in experiment.tags:
                found[experiment.experiment_id] = experiment, view
    last = _last(connection, [key for key, (_, view) in found.items() if view == TRIALS])

    def rank(key: str) -> tuple[bool, bool, int]:
        experiment, view = found[key]
        return view == TRIALS, key == last, experiment.creation_time or 0

    order = sorted(found, key=rank, reverse=True)
    return [Link(found[key][0].name, table_url(server, key, found[key][1])) for key in order]


def _experiments(connection: Connection) -> list[Experiment]:
    found, token = list[Experiment](), None
    while True:
        page = connection.client.search_experiments(ViewType.ACTIVE_ONLY, page_token=token)
        found += page
        if not (token := page.token):
            return found


def _last(connection: Connection, experiments: list[str]) -> str | None:
    """The experiment with the run that started last."""
    if not experiments:
        return None
    runs = connection.client.search_runs(experiments, max_results=1, order_by=["attributes.start_time DESC"])
    return str(runs[0].info.experiment_id) if runs else None
