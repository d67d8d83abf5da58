"""A connection to an MLflow tracking store: a sqlite file, a PostgreSQL database, or a server."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import mlflow
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.tracking.artifacts import SCHEME, folder_beside, make_relative, path_of, relative_uri
from orchestrator.tracking.database import DATABASE, first_use, is_server, with_driver
from orchestrator.tracking.points import Values
from orchestrator.tracking.schema import prepare
from trainers import InputError
from trainers.redaction import redacted

TROUBLE = (MlflowException, SQLAlchemyError, OSError)  # the errors that any call may raise
TOGETHER, PARAMS = 1000, 100  # MLflow's limits for one log_batch: all items, parameters
PAGE = 500  # runs per page, which take a server about a second


class NotifyingClient:
    """MLflow's client with a callback after every successful call."""

    def __init__(self, client: mlflow.MlflowClient, notify: Callable[[], None]) -> None:
        self._client, self._notify = client, notify

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            answer = method(*arguments, **options)
            self._notify()
            return answer

        return call


class Connection:
    """The MLflow client, reduced to the few operations that we need; `client` exists once it is open."""

    client: mlflow.MlflowClient

    def __init__(self, uri: str, artifacts: Path) -> None:
        """`artifacts` is the folder for the files of runs, unless a server keeps them or `uri` is a sqlite
        file."""
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.uri = uri
        self.artifacts, self.beside = artifacts.absolute(), folder_beside(uri)
        self.warnings: list[str] = []  # warnings of `open` for the user
        self._note()

    def _note(self) -> None:
        self.answered = time.monotonic()  # when the store last answered

    def open(self) -> None:
        """Connect. Raises one of TROUBLE if nothing answers at the address, InputError if its driver is not
        installed."""
        try:
            with first_use(with_driver(self.uri)):
                if warning := prepare(self.uri):
                    self.warnings.append(warning)
                client = mlflow.MlflowClient(tracking_uri=with_driver(self.uri))
                client.search_experiments(max_results=1)
                make_relative(self.uri)
        except ImportError as error:
            hint = "; pip install psycopg2-binary" if self.uri.startswith("postgres") else ""
            raise InputError(
                f"the driver for {redacted(self.uri)} is not installed ({error}){hint}"
            ) from None
        self.client = cast(mlflow.MlflowClient, NotifyingClient(client, self._note))
        self._note()

    def silent(self, error: BaseException) -> InputError:
        """The error for a store that does not answer."""
        return InputError(f"no MLflow tracking store answers at {redacted(self.uri)} ({first_line(error)})")

    def experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of the experiment of this name, created or restored if necessary, with its tags set."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._create(name, tags)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another sweep may have been first
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        for tag, value in tags.items():
            if found.tags.get(tag) != value:
                self.client.set_experiment_tag(found.experiment_id, tag, value)
        return str(found.experiment_id)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI asks for it
        return str(self.client.create_experiment(name, self._artifacts_of(name), tags={**tags, **kind}))

    def _artifacts_of(self, experiment: str) -> str | None:
        """The location of an experiment's artifacts; None for a server, which chooses it. MLflow's default
        would be the current directory."""
        if is_server(self.uri):
            return None
        if self.beside is not None:
            return relative_uri(experiment)
        return (self.artifacts / experiment.replace(" ", "-")).as_uri()

    def keep(self, run: Run, files: Path) -> None:
        """Store the files of a folder as a run's artifacts."""
        uri = str(run.info.artifact_uri)
        if self.beside is not None and uri.startswith(SCHEME):  # MLflow needs a server for these
            shutil.copytree(files, path_of(uri, self.beside), dirs_exist_ok=True)
        else:
            self.client.log_artifacts(run.info.run_id, str(files))

    def check(self, experiment: str) -> None:
        """Raises one of TROUBLE if the store cannot be read or written, or the experiment was deleted. It
        writes too, because a sqlite file that was deleted can still be read through an open handle."""
        if self.client.get_experiment(experiment).lifecycle_stage != "active":
            raise MlflowException(f"the experiment {experiment} was deleted")
        tag = (experiment, "opsctl.checked", str(time.time_ns()))
        try:
            self.client.set_experiment_tag(*tag)
        except MlflowException:  # two drivers that create the tag at once conflict; retry once
            self.client.set_experiment_tag(*tag)

    def runs(self, experiment: str, where: str = "") -> Iterator[Run]:
        """The runs of an experiment that match a filter, fetched page by page."""
        token = None
        while True:
            page = self.client.search_runs([experiment], where, max_results=PAGE, page_token=token)
            yield from page
            if not (token := page.token):
                return

    def values(self, run: Run) -> Values:
        """All points of a run; the latest one if a step has several."""
        found: dict[str, dict[int, float]] = {}
        for metric in run.data.metrics:
            history = self.client.get_metric_history(run.info.run_id, metric)
            ordered = sorted(history, key=lambda point: point.timestamp)
            found[metric] = {point.step: point.value for point in ordered}
        return found

    def trained_on(self, run_id: str, data: DatasetInput) -> None:
        """Log a run's data set. Retried once: two runs that log a new one at the same time conflict."""
        try:
            self.client.log_inputs(run_id, [data])
        except MlflowException:
            self.client.log_inputs(run_id, [data])

    def send(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """Send everything in as few calls as MLflow allows. Idempotent for the same points."""
        left, sent = list(params), 0
        while left or tags or sent < len(metrics):
            some, left = left[:PARAMS], left[PARAMS:]
            room = TOGETHER - len(some) - len(tags)
            points = metrics[sent : sent + room]
            self.client.log_batch(run_id, metrics=points, params=some, tags=tags)
            sent, tags = sent + len(points), ()


def default_uri(store: Path) -> str:
    """The tracking store that a sweep uses by default."""
    return f"sqlite:///{store}/{DATABASE}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without credentials and without SQLAlchemy's preamble."""
    lines = str(error).strip().split("\n")
    relevant = (line for line in lines if not line.startswith("(raised as a result of"))
    return redacted(next(relevant, lines[0]))[:300]
