"""The ledger: one folder per trial in a depot. `result.json`, published whole, says that a trial is done.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.depots.depot import open_depot

Record = dict[str, Any]


class Ledger:
    """Results and failures of trials under `trials/<key>/` of the depot at `where`."""

    def __init__(self, where: Path | str) -> None:
        self.depot = open_depot(where)

    def result(self, key: str) -> Record | None:
        """The record of a finished trial, or None."""
        return self._read(f"trials/{key}/result.json")

    def results(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of all of these trials that are finished, by key."""
        names = {f"trials/{key}/result.json": key for key in keys}
        found = {names[name]: _record(data) for name, data in self.depot.read_all(names).items()}
        return {key: record for key, record in found.items() if record is not None}

    def failure(self, key: str) -> Record | None:
        """The record of a trial's last failure, or None; a finished trial has none."""
        return self._read(f"trials/{key}/failure.json")

    def stopped(self, key: str) -> Record | None:
        """What a scheduler said of a trial that it ended early, or None; a finished trial has none."""
        return self._read(f"trials/{key}/stopped.json")

    def done(self) -> set[str]:
        """The keys of all finished trials."""
        return self.depot.holders("trials", "result.json")

    def failed(self) -> set[str]:
        """The keys of all trials that have a failure."""
        return self.depot.holders("trials", "failure.json")

    def ended(self) -> set[str]:
        """The keys of all trials that a scheduler ended early."""
        return self.depot.holders("trials", "stopped.json")

    def publish(self, key: str, record: Record) -> None:
        """Say that a trial is done. From here on it is, whatever dies. The history, being long, is last."""
        last = {"history": record["history"]} if "history" in record else {}
        short = {name: value for name, value in record.items() if name != "history"}
        self._write(key, "result", {"key": key, **short, **last})
        self.forget(key)

    def fail(self, key: str, record: Record) -> None:
        """Say why a trial is not done. `kind` is whose fault it is, see faults.py."""
        self._write(key, "failure", {"key": key, "attempts": 1, **record})

    def stop(self, key: str, record: Record) -> None:
        """Say that a scheduler ended a trial early, and when."""
        self._write(key, "stopped", {"key": key, **record})

    def forget(self, key: str) -> None:
        """Have no failure of a trial, nor that it was stopped: it is missing, or done."""
        for name in ("failure", "stopped"):
            self.depot.remove(f"trials/{key}/{name}.json")

    def _write(self, key: str, name: str, record: Record) -> None:
        data = json.dumps(record, indent=1, allow_nan=False).encode()
        self.depot.write(f"trials/{key}/{name}.json", data)

    def _read(self, name: str) -> Record | None:
        return _record(self.depot.read(name))


def _record(data: bytes | None) -> Record | None:
    try:
        record = json.loads(data or b"")
    except ValueError:
        return None  # what is no JSON was damaged from outside: the trial runs again and replaces it
    return record if isinstance(record, dict) and "key" in record else None
