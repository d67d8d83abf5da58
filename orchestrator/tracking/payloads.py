"""What MLflow is told of a trial: its name, tags, parameters and data set, its epochs, how it ended, and what
looks at it found."""

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
from orchestrator.storage.records import Record
from poisons import DataSpec, Store
from poisons.store.local_cache import remote_name
from trainers.loop import Metrics
from trainers.printable import as_markdown
from trainers.redaction import redacted
from trainers.spec import flatten, plain

KEY = "opsctl.key"
PARENT = "mlflow.parentRunId"
LOOK = "opsctl.look."  # and a look's name: the tag that holds its key, of a run that has what it found
END_TAGS = {"opsctl.error", "opsctl.stopped"}  # of a run that ended without a result
PROFILE = ("images", "shape", "num_classes")  # what MLflow shows of a data set
LONGEST_NAME = 60
Tags = dict[str, str]


@dataclass(frozen=True)
class Ending:
    """How a run ends: its status, when (ms since 1970), and what is told of the whole of it."""

    status: str
    when: int
    metrics: list[Metric] = field(default_factory=list)
    tags: Tags = field(default_factory=dict)


def now() -> int:
    return int(time.time() * 1000)


def name(task: Task) -> str:
    """The labels of its point, short: `ops 16 s0`. Where they are too long, the key tells trials apart."""
    labels = task.point.labels.items()
    text = " ".join(f"s{label}" if is_seed(axis) else label for axis, label in labels)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 9]}… {task.key[:7]}"


def tags(task: Task, plan: Plan, commit: str | None) -> Tags:
    """What its run can be filtered by from the start."""
    return {
        KEY: task.key,
        "opsctl.data_key": task.trial.data.key,
        "opsctl.sweep": plan.sweep.name,
        "opsctl.commit": commit or "unknown",
        "mlflow.source.name": "opsctl",
        "mlflow.note.content": as_markdown(task.point.name),
        **{f"axis.{axis}": label for axis, label in task.point.labels.items()},
    }


def params(spec: Any) -> list[Param]:
    return [Param(path, redacted(str(value))[:6000]) for path, value in flatten(plain(spec)).items()]


def points(rows: Iterable[tuple[int, Metrics]]) -> list[Metric]:
    """Epochs' metrics, each with its time (ms since 1970) and its epoch as the step."""
    return [
        Metric(metric, value, when, int(row["epoch"]))
        for when, row in rows
        for metric, value in row.items()
        if metric != "epoch"
    ]


def spaced(record: Record) -> list[tuple[int, Metrics]]:
    """All epochs of a record, spaced evenly over the time that it took."""
    history: list[Metrics] = record.get("history") or []
    end, last = ended(record), history[-1]["epoch"] if history else 1
    span = end - begun(record)
    return [(int(end - span * (1 - row["epoch"] / last)), row) for row in history]


def done(record: Record) -> Ending:
    """With the metrics of the whole trial: those that are none of its last epoch's."""
    end, last = ended(record), record["history"][-1]
    whole = {metric: value for metric, value in record["metrics"].items() if metric not in last}
    step = int(last["epoch"])
    told = {"opsctl.device": record["device"], "opsctl.host": record["environment"]["host"]}
    told |= platform_tags(record)
    if record.get("warnings"):
        told["opsctl.warnings"] = redacted("\n".join(record["warnings"]))[:4000]
    metrics = {**whole, "seconds": record["seconds"]}
    return Ending("FINISHED", end, [Metric(n, value, end, step) for n, value in metrics.items()], told)


def platform_tags(record: Record) -> Tags:
    """On what and in which arithmetic a trial or data set was computed, each field of the platform a tag."""
    platform: Mapping[str, Any] = record.get("platform") or {}
    found = {f"platform.{field}": str(value) for field, value in platform.items() if value is not None}
    found |= {"opsctl.precision": record["precision"]} if record.get("precision") else {}
    if record.get("precision_fallback"):
        found["opsctl.precision_fallback"] = record["precision_fallback"][:4000]
    return found


def looked(task: Task, found: Mapping[str, Record]) -> tuple[list[Metric], Tags]:
    """What looks at a trial found, by their names: metrics `<look>/<metric>`, at the last epoch or, if there
    is a curve of it, one for each of its steps; and the tags that say that a run has them."""
    points, tags = [], {}
    for look in (look for look in task.looks if look.name in found):
        record, last = found[look.name], task.trial.train.epochs
        when, first = ended(record), int(look.probe.watches)  # what is watched begins with epoch 1
        curves: Mapping[str, list[float]] = record.get("curves", {})
        numbers = {metric: n for metric, n in record["metrics"].items() if metric not in curves}
        told = [(metric, n, last) for metric, n in numbers.items()]
        told += [(curve, n, i) for curve, values in curves.items() for i, n in enumerate(values, first)]
        points += [Metric(_allowed(f"{look.name}/{metric}"), n, when, step) for metric, n, step in told]
        tags[LOOK + look.name] = look.key
    return points, tags


def with_looks(ending: Ending, task: Task, found: Mapping[str, Record]) -> Ending:
    """The ending of a trial that is done, with what looks at it found."""
    metrics, tags = looked(task, found)
    return replace(ending, metrics=ending.metrics + metrics, tags=ending.tags | tags)


def _allowed(metric: str) -> str:
    """A metric's name in letters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", metric)


def stopped(record: Record) -> Ending:
    """Ended early by a scheduler."""
    known = {name: record[name] for name in ("scheduler", "epoch", "metric", "value") if name in record}
    words = ", ".join(f"{name} {value}" for name, value in known.items())
    return Ending("KILLED", ended(record), tags={"opsctl.stopped": words or "early"})


def failed(error: str, when: int | None = None) -> Ending:
    return Ending("FAILED", when or now(), tags={"opsctl.error": redacted(error)[:4000]})


def interrupted() -> Ending:
    """Its driver ended before it did."""
    return Ending("KILLED", now())


def ended(record: Record) -> int:
    """When what a record tells of ended, in ms since 1970; now, if it does not say."""
    when = (record.get("environment") or {}).get("time")
    return now() if when is None else int(datetime.fromisoformat(when).timestamp() * 1000)


def begun(record: Record) -> int:
    return ended(record) - int(record.get("seconds", 0) * 1000)


def data_input(spec: DataSpec, store: Store) -> DatasetInput:
    """The data set that a trial is trained on."""
    record = store.record(spec) or {}
    told: dict[str, Any] = {key: record[key] for key in PROFILE if key in record}
    file = f"data/{spec.name}/data.arrow"
    if "files" in record:
        told["sha256"] = record["files"]["data.arrow"]["sha256"]
        if store.remote is not None:
            file = remote_name(f"data/{spec.name}", "data.arrow", told["sha256"])
    data = Dataset(
        spec.name,
        spec.key,
        source_type="local",
        source=json.dumps({"uri": f"{redacted(store.where)}/{file}"}),
        profile=json.dumps(told),
    )
    return DatasetInput(data, tags=[InputTag("mlflow.data.context", "training")])
