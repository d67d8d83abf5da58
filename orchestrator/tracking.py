"""MLflow, as a view of the ledger. The only file that imports mlflow.

One experiment per sweep, one run per trial; and one experiment for data sets, one run each, whichever sweeps
read it, with its card and its picture. A run is known by its tag `opsctl.key`. One that is FINISHED is
complete; any other run of the key is left over from a driver that died or was stopped, and is replaced. So
pushing twice is a no-op.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
)  # results are on disk: better to give up early than to wait
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.datasets import drawn
from orchestrator.observer import Observer
from orchestrator.plan import Plan, Task
from orchestrator.results import Ledger, Record
from orchestrator.spec import is_seed
from poisons import DataSpec, Store
from poisons.card import markdown
from trainers import InputError
from trainers.loop import Metrics
from trainers.provenance import environment
from trainers.spec import flatten, plain

KEY = "opsctl.key"
DATA_SETS = "opsctl data sets"  # the name of their experiment
PROFILE = ("images", "shape", "num_classes")  # what MLflow shows of a data set
BATCH = 1000  # metrics in one call, MLflow's limit
TROUBLE = (MlflowException, SQLAlchemyError, OSError)


class Tracker:
    """An experiment in an MLflow store, and what the ledger says should be in it."""

    def __init__(self, uri: str, plan: Plan, store: Store) -> None:
        """Connects, and creates the experiment. Raises InputError if nothing answers at `uri`."""
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self.plan, self.store = plan, store
        try:
            self.client = mlflow.MlflowClient(tracking_uri=uri)
            self.artifacts = None if uri.startswith("http") else store.root / "mlartifacts"
            self.experiment = self._experiment(plan.sweep.name, plan.sweep.question)
            self.data_sets = self._experiment(
                DATA_SETS, "Every poisoned data set, with its card and picture."
            )
        except TROUBLE as error:
            raise InputError(f"no MLflow tracking store answers at {uri} ({_first_line(error)})") from None

    def _experiment(self, name: str, question: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            tags = {"mlflow.note.content": question, "mlflow.experimentKind": "custom_model_development"}
            # a server knows where its artifacts go; MLflow itself would put them where the command was typed
            place = None if self.artifacts is None else (self.artifacts / name.replace(" ", "-")).as_uri()
            try:
                return str(self.client.create_experiment(name, place, tags=tags))
            except MlflowException:
                found = self.client.get_experiment_by_name(name)  # another sweep may have been first
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def runs(self, experiment: str | None = None) -> dict[str, list[Run]]:
        """Every run of an experiment (default: of the sweep) by its key."""
        found: dict[str, list[Run]] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [experiment or self.experiment], max_results=1000, page_token=token
            )
            for run in page:
                found.setdefault(run.data.tags.get(KEY, ""), []).append(run)
            if not (token := page.token):
                return found

    def sync(self, report: Callable[[int, int], None] = lambda _sent, _of: None) -> int:
        """Make every finished trial of the sweep appear once, complete; returns how many were sent."""
        ledger, runs = Ledger(self.store.root), self.runs()
        wanted = [
            (task, record) for task in self.plan.tasks if (record := ledger.result(task.key)) is not None
        ]
        unsent = [(task, record) for task, record in wanted if not _complete(runs.get(task.key, []))]
        for sent, (task, record) in enumerate(unsent, start=1):
            self.discard(runs.get(task.key, []))
            run_id = self.start(task, ended(record) - int(record["seconds"] * 1000))
            self.log(run_id, record["history"], ended(record))
            self.finish(run_id, record)
            report(sent, len(unsent))
        for task, _ in wanted:
            self._discard_doubles(runs.get(task.key, []))
        self.sync_data(
            spec for task in self.plan.tasks for spec in (*task.trial.data.crafted, task.trial.data)
        )
        return len(unsent)

    def sync_data(self, specs: Iterable[DataSpec]) -> None:
        """Make every one of these data sets that is poisoned and in the store appear once, complete."""
        known = self.runs(self.data_sets)
        for key in known:
            self._discard_doubles(known[key])
        for spec in {spec.name: spec for spec in specs if spec.crafted}.values():
            record = self.store.record(spec)
            if record is not None and not _complete(known.get(spec.key, [])):
                self.discard(known.get(spec.key, []))
                self._log_data(spec, record)

    def _log_data(self, spec: DataSpec, record: dict[str, Any]) -> None:
        """A run for a data set: its spec, how crafting went round by round, what changed, its card and
        picture."""
        now = ended(record)
        tags = {KEY: spec.key, "mlflow.note.content": markdown(record)[:5000]}
        run = self.client.create_run(self.data_sets, now, tags=tags, run_name=spec.name)
        run_id = str(run.info.run_id)
        self._log_params(run_id, plain(spec))
        points = [Metric(name, value, now, step) for name, value, step in _told(record)]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + BATCH])
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "card.md").write_text(markdown(record))
            Path(folder, "record.json").write_text(json.dumps(record, indent=1))
            try:
                Path(folder, "picture.png").write_bytes(drawn(spec, self.store))
                self.client.log_artifacts(run_id, folder)
            except Exception as error:  # noqa: BLE001  (each artifact store has errors of its own; the numbers are there)
                self.client.set_tag(run_id, "opsctl.artifacts", f"not kept: {_first_line(error)}")
        self.client.set_terminated(run_id, "FINISHED", now)

    def _log_params(self, run_id: str, spec: dict[str, Any]) -> None:
        params = [Param(path, str(value)[:6000]) for path, value in flatten(spec).items()]
        for start in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[start : start + 100])

    def start(self, task: Task, begun: int | None = None) -> str:
        """A new run for a trial begun at `begun` (ms, default now): dotted parameters, tags, data set."""
        told = environment()
        tags = {
            KEY: task.key,
            "opsctl.data_key": task.trial.data.key,
            "opsctl.sweep": self.plan.sweep.name,
            "opsctl.commit": told["commit"] or "unknown",
            "mlflow.note.content": task.point.name,
            **{f"axis.{axis}": label for axis, label in task.point.labels.items()},
        }
        labels = task.point.labels.items()
        words = [f"s{label}" if is_seed(axis) else label for axis, label in labels]
        run = self.client.create_run(self.experiment, begun, tags=tags, run_name=" ".join(words)[:200])
        self._log_params(run.info.run_id, plain(task.trial))
        self.client.log_inputs(run.info.run_id, [self._data_input(task.trial.data)])
        return str(run.info.run_id)

    def _data_input(self, spec: DataSpec) -> DatasetInput:
        source = json.dumps({"uri": f"file://{self.store.path(spec)}/data.arrow"})
        record = self.store.record(spec) or {}
        told: dict[str, Any] = {name: record[name] for name in PROFILE if name in record}
        if "files" in record:
            told["sha256"] = record["files"]["data.arrow"]["sha256"]
        profile = json.dumps(told)
        data = Dataset(spec.name, spec.key, source_type="local", source=source, profile=profile)
        return DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")])

    def log(self, run_id: str, rows: Iterable[Metrics], when: int | None = None) -> None:
        """Epochs' metrics, each at its epoch as the step; all at the time `when` (ms, default now)."""
        now = int(time.time() * 1000) if when is None else when
        points = [
            Metric(name, value, now, int(row["epoch"]))
            for row in rows
            for name, value in row.items()
            if name != "epoch"
        ]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + BATCH])

    def finish(self, run_id: str, record: Record) -> None:
        """The metrics that belong to the whole trial; then, and only then, the run counts as complete."""
        now, last = ended(record), int(record["history"][-1]["epoch"])
        whole = {
            name: value for name, value in record["metrics"].items() if name not in record["history"][-1]
        }
        points = [
            Metric(name, value, now, last) for name, value in {**whole, "seconds": record["seconds"]}.items()
        ]
        tags = [
            RunTag("opsctl.device", record["device"]),
            RunTag("opsctl.host", record["environment"]["host"]),
        ]
        if record.get("warnings"):
            tags.append(RunTag("opsctl.warnings", "\n".join(record["warnings"])[:4000]))
        self.client.log_batch(run_id, metrics=points, tags=tags)
        self.client.set_terminated(run_id, "FINISHED", now)

    def fail(self, run_id: str, error: str) -> None:
        """A run that ended without a result; it is replaced when the trial is done after all."""
        self.client.set_tag(run_id, "opsctl.error", error[:4000])
        self.client.set_terminated(run_id, "FAILED")

    def discard(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)

    def _discard_doubles(self, runs: list[Run]) -> None:
        finished = [run for run in runs if run.info.status == "FINISHED"]
        if finished:
            self.discard(run for run in runs if run is not finished[0])


class LiveTracker(Observer):
    """Sends a running sweep to MLflow from a thread of its own, so that no trial and no scheduling ever
    waits for it.

    When the store stops answering, it says so once and stays silent: `sync` later sends what is missing.
    """

    def __init__(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self.tracker, self.warn = tracker, warn
        self.work: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.Queue()
        self.old: dict[str, list[Run]] = {}  # runs that were there before
        self.run_ids: dict[str, str] = {}
        self.logged: dict[str, int] = {}  # key -> last epoch sent
        self.lost = False
        self.thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def sweep_started(self, plan: Plan) -> None:
        self.thread.start()
        self.work.put((self._look, ()))

    def data_built(self, spec: DataSpec) -> None:
        if spec.crafted:
            self.work.put((self.tracker.sync_data, ([spec],)))

    def trial_started(self, task: Task) -> None:
        self.work.put((self._started, (task,)))

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None:
        self.work.put((self._progress, (task, rows)))

    def trial_done(self, task: Task, record: Record) -> None:
        self.work.put((self._done, (task, record)))

    def trial_failed(self, task: Task, error: str) -> None:
        self.work.put((self._failed, (task, error)))

    def sweep_ended(self) -> None:
        self.work.put((self._abandon, ()))
        self.work.put(None)
        if self.thread.is_alive():
            self.thread.join()

    def _run(self) -> None:
        while (item := self.work.get()) is not None:
            if self.lost:
                continue
            method, arguments = item
            try:
                method(*arguments)
            except TROUBLE as error:
                self.lost = True
                self.warn(
                    f"MLflow no longer answers ({_first_line(error)}); the sweep goes on, results are on disk"
                )

    def _look(self) -> None:
        self.old = self.tracker.runs()

    def _abandon(self) -> None:
        """Trials that ran when the sweep ended; their runs are replaced when they are done after all."""
        for run_id in self.run_ids.values():
            self.tracker.client.set_terminated(run_id, "KILLED")

    def _started(self, task: Task) -> None:
        self.tracker.discard(self.old.pop(task.key, []))
        if (before := self.run_ids.pop(task.key, None)) is not None:  # a retry begins anew
            self.tracker.client.delete_run(before)
        self.run_ids[task.key] = self.tracker.start(task)
        self.logged[task.key] = 0

    def _progress(self, task: Task, rows: list[Metrics]) -> None:
        fresh = [row for row in rows if row["epoch"] > self.logged[task.key]]
        if fresh:
            self.tracker.log(self.run_ids[task.key], fresh)
            self.logged[task.key] = int(fresh[-1]["epoch"])

    def _done(self, task: Task, record: Record) -> None:
        self._progress(task, record["history"])
        self.tracker.finish(self.run_ids.pop(task.key), record)

    def _failed(self, task: Task, error: str) -> None:
        if (run_id := self.run_ids.pop(task.key, None)) is not None:
            self.tracker.fail(run_id, error)


def _told(record: dict[str, Any]) -> Iterator[tuple[str, float, int]]:
    """What a data set's record counts, as (metric, value, step): rounds of its crafting, what changed."""
    for kind, facts in record["facts"].items():
        for row in facts.get("rounds", ()):
            for name in ("error", "seconds"):
                yield f"{kind}/{name}", float(row[name]), int(row["round"])
    for path, value in flatten(record.get("change") or {}).items():
        if isinstance(value, int | float):
            yield f"change/{path}".replace(".", "/"), float(value), 0
    yield "seconds", float(record["seconds"]), 0


def ended(record: Record) -> int:
    """When what a record tells of ended, in milliseconds since 1970."""
    return int(datetime.fromisoformat(record["environment"]["time"]).timestamp() * 1000)


def default_uri(store: Path) -> str:
    """The tracking store that a sweep uses unless told otherwise."""
    return f"sqlite:///{store}/mlflow.db"


def _complete(runs: list[Run]) -> bool:
    return any(run.info.status == "FINISHED" for run in runs)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
