"""The ledger: one folder per trial in a depot. `result.json`, published whole, says that a trial is done, and
`look-<key>.json` what a look at it found.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.depots.depot import open_depot

Record = dict[str, Any]
LookKeys = Mapping[str, str]  # of the looks at one trial: their keys by their names
CHECKPOINT = "checkpoint.pt"  # in a trial's folder
WEIGHTS = "weights.pt"
LAST = ("curves", "fields")  # of a finding: what is long, and so comes last


class Ledger:
    """Results and failures of trials under `trials/<key>/` of the depot at `where`."""

    def __init__(self, where: Path | str) -> None:
        self.depot = open_depot(where)

    def result(self, key: str) -> Record | None:
        """The record of a finished trial, or None."""
        return self._read(f"trials/{key}/result.json")

    def results(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of all of these trials that are finished, by key."""
        return self._read_all(keys, "result")

    def look(self, key: str, look: str) -> Record | None:
        """What the look of that key found at a trial, or None."""
        return finding(self.depot.read(look_file(key, look)))

    def looked(self, key: str, looks: LookKeys) -> Record | None:
        """The record of a trial that is done, with what these looks found: their metrics among its own, as
        `<look>/<metric>`, and their records as `looks`. None if any of it is lacking."""
        found = {name: self.look(key, look) for name, look in looks.items()}
        there = {name: record for name, record in found.items() if record is not None}
        record = self.result(key) if len(there) == len(looks) else None
        return None if record is None else with_looks(record, there) | ({"looks": there} if there else {})

    def findings(self, wanted: Mapping[str, LookKeys]) -> dict[str, dict[str, Record]]:
        """What looks at trials found, as far as they did: by the trial's key, then by the look's name."""
        read = self.depot.read_all(
            {look_file(key, k) for key, looks in wanted.items() for k in looks.values()}
        )
        found = {file: record for file, data in read.items() if (record := finding(data)) is not None}
        return {
            key: {name: found[look_file(key, k)] for name, k in looks.items() if look_file(key, k) in found}
            for key, looks in wanted.items()
        }

    def failure(self, key: str) -> Record | None:
        """The record of a trial's last failure, or None; a finished trial has none."""
        return self._read(f"trials/{key}/failure.json")

    def failures(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of the last failures of these trials, by key, of those that have one."""
        return self._read_all(keys, "failure")

    def stopped(self, key: str) -> Record | None:
        """What a scheduler said of a trial that it ended early, or None; a finished trial has none."""
        return self._read(f"trials/{key}/stopped.json")

    def stops(self, keys: Iterable[str]) -> dict[str, Record]:
        """What a scheduler said of these trials, by key, of those that it ended early."""
        return self._read_all(keys, "stopped")

    def done(self) -> set[str]:
        """The keys of all finished trials."""
        return self.depot.holders("trials", "result.json")

    def failed(self) -> set[str]:
        """The keys of all trials that have a failure."""
        return self.depot.holders("trials", "failure.json")

    def ended(self) -> set[str]:
        """The keys of all trials that a scheduler ended early."""
        return self.depot.holders("trials", "stopped.json")

    def kept(self) -> set[str]:
        """The keys of all trials whose weights are kept."""
        return self.depot.holders("trials", WEIGHTS)

    def publish(self, key: str, record: Record) -> Record:
        """Say that a trial is done. From here on it is, whatever dies. The history, being long, is last.

        What somebody else has published before stays, unless it is damaged; returns what is there now.
        """
        last = {"history": record["history"]} if "history" in record else {}
        short = {name: value for name, value in record.items() if name != "history"}
        told = {"key": key, **short, **last}
        before = self._publish(f"trials/{key}/result.json", _json(told), _record)
        self.forget(key)
        return before or told

    def publish_look(self, key: str, look: str, record: Record) -> None:
        """Say what the look of that key found at a trial, unless that is said already. A line for each thing
        that is told."""
        told = {"key": look, **{name: value for name, value in record.items() if name not in LAST}}
        told |= {name: record.get(name, {}) for name in LAST}
        lines = [f" {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in told.items()]
        self._publish(look_file(key, look), ("{\n" + ",\n".join(lines) + "\n}").encode(), finding)

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

    def tidy(self, key: str) -> None:
        """Have no checkpoint of a trial that is done."""
        for name in (f"{CHECKPOINT}.sha256", CHECKPOINT):  # without the first nobody looks for the other
            self.depot.remove(f"trials/{key}/{name}")

    def _publish(
        self, name: str, data: bytes, read: Callable[[bytes | None], Record | None]
    ) -> Record | None:
        """Have `name` hold `data`, unless it holds what can be read: then that."""
        if self.depot.publish(name, data):
            return None
        if (found := read(self.depot.read(name))) is None:
            self.depot.write(name, data)
        return found

    def _write(self, key: str, name: str, record: Record) -> None:
        self.depot.write(f"trials/{key}/{name}.json", _json(record))

    def _read_all(self, keys: Iterable[str], name: str) -> dict[str, Record]:
        names = {f"trials/{key}/{name}.json": key for key in keys}
        found = {names[file]: _record(data) for file, data in self.depot.read_all(names).items()}
        return {key: record for key, record in found.items() if record is not None}

    def _read(self, name: str) -> Record | None:
        return _record(self.depot.read(name))


def look_file(key: str, look: str) -> str:
    """Where what the look of a key found at a trial is kept."""
    return f"trials/{key}/look-{look}.json"


def with_looks(record: Record, found: Mapping[str, Record]) -> Record:
    """A trial's record, with the metrics of what looks at it found, by their names, among its own."""
    if not found:
        return record
    metrics = {f"{name}/{metric}": n for name, one in found.items() for metric, n in one["metrics"].items()}
    return {**record, "metrics": {**record["metrics"], **metrics}}


def finding(data: bytes | None) -> Record | None:
    """The record of what a look found from its file's bytes; None if there are none, or they are damaged."""
    record = _record(data)
    return record if record is not None and isinstance(record.get("metrics"), dict) else None


def _json(record: Record) -> bytes:
    return json.dumps(record, indent=1, allow_nan=False).encode()


def _record(data: bytes | None) -> Record | None:
    try:
        record = json.loads(data or b"")
    except ValueError:
        return None  # what is no JSON was damaged from outside: the trial runs again and replaces it
    return record if isinstance(record, dict) and "key" in record else None
