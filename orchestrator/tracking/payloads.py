"""A trial in MLflow's terms: run name, tags, parameters, data set, metrics by epoch, final status, and the
findings of its probes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from orchestrator.planning.plan import Plan, Task
from orchestrator.planning.spec import is_seed
from orchestrator.storage.records import Finding, Result, Stopped
from poisons import DataSpec, Store
from trainers.families import Metrics
from trainers.printable import as_markdown
from trainers.redaction import redacted
from trainers.spec import flatten, plain

KEY = "opsctl.key"
PARENT = "mlflow.parentRunId"
PROBE_TAG = "opsctl.look."  # plus a probe's name: the tag with its key, on a run that has its findings
END_TAGS = {"opsctl.error", "opsctl.stopped"}  # tags of a run that ended without a result
PROFILE = ("images", "shape", "num_classes")  # fields of a data set that MLflow shows
LONGEST_NAME = 60
Tags = dict[str, str]


@dataclass(frozen=True)
class Ending:
    """The end of a run: its status, when (ms since 1970), and the metrics and tags of the whole run."""

    status: str
    when: int
    metrics: list[Metric] = field(default_factory=list)
    tags: Tags = field(default_factory=dict)


def now() -> int:
    return int(time.time() * 1000)


def name(task: Task) -> str:
    """A short run name from the labels of the trial's point: `ops 16 s0`. Long names are cut and end with the
    start of the key."""
    labels = task.point.labels.items()
    text = " ".join(f"s{label}" if is_seed(axis) else label for axis, label in labels)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 9]}… {task.key[:7]}"


def tags(task: Task, plan: Plan, commit: str | None) -> Tags:
    """The tags that a run has from its start, for filtering."""
    return {
        KEY: task.key,
        "opsctl.data_key": task.trial.training_data.key,
        "opsctl.sweep": plan.sweep.name,
        "opsctl.commit": commit or "unknown",
        "mlflow.source.name": "opsctl",
        "mlflow.note.content": as_markdown(task.point.name),
        **{f"axis.{axis}": label for axis, label in task.point.labels.items()},
    }


def params(spec: Any) -> list[Param]:
    return [Param(path, redacted(str(value))[:6000]) for path, value in flatten(plain(spec)).items()]


def points(rows: Iterable[tuple[int, Metrics]]) -> list[Metric]:
    """The metrics of epochs, each with its time (ms since 1970), and the epoch as the step."""
    return [
        Metric(metric, value, when, int(row["epoch"]))
        for when, row in rows
        for metric, value in row.items()
        if metric != "epoch"
    ]


def spaced(record: Mapping[str, Any]) -> list[tuple[int, Metrics]]:
    """All epochs of a record, with times spaced evenly over its duration."""
    history: list[Metrics] = record.get("history") or []
    end, last = ended(record), history[-1]["epoch"] if history else 1
    span = end - begun(record)
    return [(int(end - span * (1 - row["epoch"] / last)), row) for row in history]


def done(record: Result) -> Ending:
    """The end of a finished trial, with its metrics that are not in the last epoch."""
    end, last = ended(record), record["history"][-1]
    whole = {metric: value for metric, value in record["metrics"].items() if metric not in last}
    step = int(last["epoch"])
    tags = {"opsctl.device": record["device"], "opsctl.host": record["environment"]["host"]}
    tags |= platform_tags(record)
    if record.get("warnings"):
        tags["opsctl.warnings"] = redacted("\n".join(record["warnings"]))[:4000]
    metrics = {**whole, "seconds": record["seconds"]}
    return Ending("FINISHED", end, [Metric(n, value, end, step) for n, value in metrics.items()], tags)


def platform_tags(record: Mapping[str, Any]) -> Tags:
    """The platform and precision of a trial or data set as tags, one for each field of the platform."""
    platform: Mapping[str, Any] = record.get("platform") or {}
    found = {f"platform.{field}": str(value) for field, value in platform.items() if value is not None}
    found |= {"opsctl.precision": record["precision"]} if record.get("precision") else {}
    if fallback := record.get("precision_fallback"):
        found["opsctl.precision_fallback"] = fallback[:4000]
    return found


def findings(task: Task, found: Mapping[str, Finding]) -> tuple[list[Metric], Tags]:
    """The findings of a trial's probes, given by name. Metrics are named `<probe>/<metric>`, at the last
    epoch, or at each step if there is a curve. The tags mark that the run has them."""
    points, tags = [], {}
    for probe_run in (one for one in task.probes if one.name in found):
        record, last = found[probe_run.name], task.trial.train.epochs
        when, first = ended(record), int(probe_run.probe.watches)  # watched curves begin with epoch 1
        curves: Mapping[str, list[float]] = record.get("curves", {})
        numbers = {metric: n for metric, n in record["metrics"].items() if metric not in curves}
        rows = [(metric, n, last) for metric, n in numbers.items()]
        rows += [(curve, n, i) for curve, values in curves.items() for i, n in enumerate(values, first)]
        points += [Metric(_allowed(f"{probe_run.name}/{metric}"), n, when, step) for metric, n, step in rows]
        tags[PROBE_TAG + probe_run.name] = probe_run.key
    return points, tags


def with_findings(ending: Ending, task: Task, found: Mapping[str, Finding]) -> Ending:
    """The ending of a finished trial, with the findings of its probes."""
    metrics, tags = findings(task, found)
    return replace(ending, metrics=ending.metrics + metrics, tags=ending.tags | tags)


def _allowed(metric: str) -> str:
    """A metric's name with characters that MLflow does not allow replaced."""
    return re.sub(r"[^\w\-. :/]", "_", metric)


def stopped(record: Stopped) -> Ending:
    """The end of a trial that a scheduler stopped early."""
    known = {name: record[name] for name in ("scheduler", "epoch", "metric", "value") if name in record}
    words = ", ".join(f"{name} {value}" for name, value in known.items())
    return Ending("KILLED", ended(record), tags={"opsctl.stopped": words or "early"})


def failed(error: str, when: int | None = None) -> Ending:
    return Ending("FAILED", when or now(), tags={"opsctl.error": redacted(error)[:4000]})


def interrupted() -> Ending:
    """The end of a trial whose driver ended first."""
    return Ending("KILLED", now())


def ended(record: Mapping[str, Any]) -> int:
    """When the recorded work ended, in ms since 1970; the current time if the record lacks it."""
    when = (record.get("environment") or {}).get("time")
    return now() if when is None else int(datetime.fromisoformat(when).timestamp() * 1000)


def begun(record: Mapping[str, Any]) -> int:
    return ended(record) - int(record.get("seconds", 0) * 1000)


def data_input(spec: DataSpec, store: Store) -> DatasetInput:
    """A trial's training set as an MLflow data-set input."""
    record = store.record(spec) or {}
    profile: dict[str, Any] = {key: record[key] for key in PROFILE if key in record}
    folder = f"data/{spec.name}"
    file = f"{folder}/data.arrow"
    if "files" in record:
        profile["sha256"] = record["files"]["data.arrow"]["sha256"]
        file = store.file_name(folder, "data.arrow", profile["sha256"])
    data = Dataset(
        spec.name,
        spec.key,
        source_type="local",
        source=json.dumps({"uri": f"{redacted(store.where)}/{file}"}),
        profile=json.dumps(profile),
    )
    return DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")])
