"""The experiment of data sets: a run for each poisoned one, with its card, picture and crafting rounds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from orchestrator.tracking.connection import Connection, first_line
from orchestrator.tracking.dedupe import Copy, settle
from orchestrator.tracking.links import DATA_SETS, VIEW_TAG
from orchestrator.tracking.page import saved_view
from orchestrator.tracking.payloads import KEY, ended, params, platform_tags
from poisons import DataSpec, Store
from poisons.exchange.card import markdown
from poisons.exchange.stored_picture import picture_of
from trainers.redaction import redacted_data
from trainers.spec import flatten

NAME = "opsctl data sets"
ROUND = ("round", "error", "seconds")
COLUMNS = (
    "metrics.`change/psnr/mean`",
    "metrics.`seconds`",
    "params.`source.kind`",
    "params.`poison.0.kind`",
    "params.`ratio`",
)
STATE = {
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "searchFilter": "",
    "selectedColumns": COLUMNS,
}
TAGS = {
    "mlflow.note.content": "Every poisoned data set, with its card and picture.",
    VIEW_TAG + DATA_SETS: saved_view(DATA_SETS, STATE),
}


def sync(connection: Connection, experiment: str, store: Store, specs: Iterable[DataSpec]) -> None:
    """Ensure that each of these data sets that is poisoned and in the store has one complete run."""
    wanted = {spec.key: spec for spec in specs if spec.crafted}
    if not wanted:
        return

    def write(key: str, _unfinished: list[Copy]) -> None:
        spec = wanted[key]
        with suppress(MlflowException):  # another driver may write it and delete ours; `settle` checks again
            _send(connection, experiment, store, spec, store.record(spec) or {})

    there = store.having(wanted.values())
    settle(connection, experiment, [key for key, spec in wanted.items() if spec.name in there], write)


def _send(
    connection: Connection, experiment: str, store: Store, spec: DataSpec, record: dict[str, Any]
) -> None:
    record, now = redacted_data(record), ended(record)
    tags = {KEY: spec.key, "mlflow.note.content": markdown(record)[:5000], "mlflow.source.name": "opsctl"}
    tags |= platform_tags(record)
    run = connection.client.create_run(experiment, now, tags=tags, run_name=spec.name)
    run_id = str(run.info.run_id)
    points = [Metric(name, value, now, step) for name, value, step in _measurements(record)]
    connection.send(run_id, points, params(spec))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "card.md").write_text(markdown(record))
        Path(folder, "record.json").write_text(json.dumps(record, indent=1))
        try:
            Path(folder, "picture.png").write_bytes(picture_of(spec, store))
            connection.keep(run, Path(folder))
        except Exception as error:  # noqa: BLE001  (each artifact store has errors of its own; the numbers are there)
            connection.client.set_tag(run_id, "opsctl.artifacts", f"not kept: {first_line(error)}")
    connection.client.set_terminated(run_id, "FINISHED", now)


def _measurements(record: dict[str, Any]) -> Iterator[tuple[str, float, int]]:
    """The numbers of a data set's record, as (metric, value, step): crafting rounds, changes, seconds."""
    for kind, facts in record.get("facts", {}).items():
        for row in _rounds(facts):
            for name in ("error", "seconds"):
                yield f"{kind}/{name}", float(row[name]), int(row["round"])
    for path, value in flatten(record.get("change") or {}).items():
        if isinstance(value, int | float):
            yield f"change/{path}".replace(".", "/"), float(value), 0
    yield "seconds", float(record.get("seconds", 0)), 0


def _rounds(facts: dict[str, Any]) -> list[dict[str, float]]:
    """The rounds of a crafting, if the record has any."""
    found = facts.get("rounds")
    rows = found if isinstance(found, list) else []
    return [row for row in rows if isinstance(row, dict) and all(_is_number(row.get(n)) for n in ROUND)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
