"""The ledger: one folder per trial in storage. `result.json`, published whole, says that a trial is done,
and `look-<key>.json` what a look at it found.

A damaged file counts as missing. What is published in its place moves it to `quarantine/`.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.storage.quarantine import quarantine
from orchestrator.storage.records import (
    FAILURE,
    PROBED,
    RESULT,
    SEALS,
    STOPPED,
    Record,
    check_seal,
    sealed,
)
from orchestrator.storage.storage import open_storage
from trainers.redaction import redacted_data
from trainers.stored import DamagedError, JsonFile

LookKeys = Mapping[str, str]  # of the looks at one trial: their keys by their names
CHECKPOINT = "checkpoint.pt"  # in a trial's folder
WEIGHTS = "weights.pt"
HISTORY = ("history",)  # of a result: what is long, and so comes last
LAST = ("curves", "fields")  # of a finding
FILES = ("result", "failure", "stopped")


class Ledger:
    """Results and failures of trials under `trials/<key>/` of the storage at `where`."""

    def __init__(self, where: Path | str) -> None:
        self.storage = open_storage(where)
        self.damaged: dict[str, str] = {}  # files that were read and are damaged, and why

    def result(self, key: str) -> Record | None:
        """The record of a finished trial, or None."""
        return self._read(key, "result")

    def results(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of all of these trials that are finished, by key."""
        return self._read_all(keys, "result")

    def look(self, key: str, look: str) -> Record | None:
        """What the look of that key found at a trial, or None."""
        return self.parsed(look_file(key, look), self.storage.read(look_file(key, look)))

    def looked(self, key: str, looks: LookKeys) -> Record | None:
        """The record of a trial that is done, with what these looks found: their metrics among its own, as
        `<look>/<metric>`, and their records as `looks`. None if any of it is lacking."""
        found = {name: self.look(key, look) for name, look in looks.items()}
        there = {name: record for name, record in found.items() if record is not None}
        record = self.result(key) if len(there) == len(looks) else None
        return None if record is None else with_looks(record, there) | ({"looks": there} if there else {})

    def findings(self, wanted: Mapping[str, LookKeys]) -> dict[str, dict[str, Record]]:
        """What looks at trials found, as far as they did: by the trial's key, then by the look's name."""
        read = self.storage.read_all(
            {look_file(key, k) for key, looks in wanted.items() for k in looks.values()}
        )
        records = {file: self.parsed(file, data) for file, data in read.items()}
        found = {file: record for file, record in records.items() if record is not None}
        return {
            key: {name: found[look_file(key, k)] for name, k in looks.items() if look_file(key, k) in found}
            for key, looks in wanted.items()
        }

    def failure(self, key: str) -> Record | None:
        """The record of a trial's last failure, or None; a finished trial has none."""
        return self._read(key, "failure")

    def failures(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of the last failures of these trials, by key, of those that have one."""
        return self._read_all(keys, "failure")

    def stopped(self, key: str) -> Record | None:
        """What a scheduler said of a trial that it ended early, or None; a finished trial has none."""
        return self._read(key, "stopped")

    def stops(self, keys: Iterable[str]) -> dict[str, Record]:
        """What a scheduler said of these trials, by key, of those that it ended early."""
        return self._read_all(keys, "stopped")

    def done(self) -> set[str]:
        """The keys of all finished trials."""
        return self.storage.holders("trials", "result.json")

    def failed(self) -> set[str]:
        """The keys of all trials that have a failure."""
        return self.storage.holders("trials", "failure.json")

    def ended(self) -> set[str]:
        """The keys of all trials that a scheduler ended early."""
        return self.storage.holders("trials", "stopped.json")

    def kept(self) -> set[str]:
        """The keys of all trials whose weights are kept."""
        return self.storage.holders("trials", WEIGHTS)

    def publish(self, key: str, record: Record) -> Record:
        """Say that a trial is done. From here on it is, whatever dies. The history, being long, is last.

        What somebody else has published before stays, unless it is damaged; returns what is there now.
        """
        told = {"key": key} | record | {"key": key}
        told |= {"warnings": redacted_data(told["warnings"])} if "warnings" in told else {}
        before = self._publish(f"trials/{key}/result.json", _json(sealed(told, last=HISTORY)))
        self.forget(key)
        return before or told

    def publish_look(self, key: str, look: str, record: Record) -> None:
        """Say what the look of that key found at a trial, unless that is said already. A line for each thing
        that is told."""
        told = sealed({"key": look} | {name: {} for name in LAST} | record | {"key": look}, last=LAST)
        lines = [f" {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in told.items()]
        self._publish(look_file(key, look), ("{\n" + ",\n".join(lines) + "\n}").encode())

    def fail(self, key: str, record: Record) -> None:
        """Say why a trial is not done. `kind` is whose fault it is, see faults.py."""
        self._write(key, "failure", {"attempts": 1} | redacted_data(record) | {"key": key})

    def stop(self, key: str, record: Record) -> None:
        """Say that a scheduler ended a trial early, and when."""
        self._write(key, "stopped", record | {"key": key})

    def forget(self, key: str) -> None:
        """Have no failure of a trial, nor that it was stopped: it is missing, or done."""
        for name in ("failure", "stopped"):
            self.storage.remove(f"trials/{key}/{name}.json")

    def tidy(self, key: str) -> None:
        """Have no checkpoint of a trial that is done."""
        for name in (f"{CHECKPOINT}.sha256", CHECKPOINT):  # without the first nobody looks for the other
            self.storage.remove(f"trials/{key}/{name}")

    def parsed(self, name: str, data: bytes | None, *, short: bool = False) -> Record | None:
        """The record in a file of the ledger that has these bytes, or is cut `short` before its long fields;
        None if there is none, or it is damaged, which `damaged` then says."""
        if data is None:
            return None
        try:
            return read_file(name, data, short=short)
        except DamagedError as error:
            self.damaged[name] = str(error)
            return None

    def _publish(self, name: str, data: bytes) -> Record | None:
        """Have `name` hold `data`, unless it holds what can be read: then that."""
        for _ in range(3):  # another may replace a damaged file at the same time
            if self.storage.publish(name, data):
                return None
            if (found := self.parsed(name, self.storage.read(name))) is not None:
                return found
            quarantine(self.storage, name)
        self.storage.write(name, data)
        return None

    def _write(self, key: str, name: str, record: Record) -> None:
        self.storage.write(f"trials/{key}/{name}.json", _json(record))

    def _read_all(self, keys: Iterable[str], name: str) -> dict[str, Record]:
        names = {f"trials/{key}/{name}.json": key for key in keys}
        read = self.storage.read_all(names)
        found = {names[file]: self.parsed(file, data) for file, data in read.items()}
        return {key: record for key, record in found.items() if record is not None}

    def _read(self, key: str, name: str) -> Record | None:
        file = f"trials/{key}/{name}.json"
        return self.parsed(file, self.storage.read(file))


def read_file(name: str, data: bytes, *, short: bool = False) -> Record:
    """The record in a file of the ledger, `trials/<key>/result.json` for example, that has these bytes.
    Raises DamagedError: also for another trial's record, or one that was changed since it was published."""
    _, key, file = name.split("/")
    what = file.removesuffix(".json")
    last = HISTORY if what in FILES else LAST
    record = _READERS.get(what, PROBED).read(data)
    wanted = key if what in FILES else what.removeprefix("look-")
    if record["key"] != wanted:
        raise DamagedError(f"it is of {record['key']}, not of {wanted}")
    if "digest" in record or "digests" in record:
        check_seal(record, last=last, short=short)
    elif what == "result":
        _check_spec(record)
    return {name: value for name, value in record.items() if name not in SEALS}


_READERS: dict[str, JsonFile[Record]] = {"result": RESULT, "failure": FAILURE, "stopped": STOPPED}


def _check_spec(record: Record) -> None:
    """Raises DamagedError unless the settings of a result, of a version of opsctl that kept no digest, are
    those of its key."""
    from orchestrator.storage.trial_spec import (
        TrialSpec,  # imports torch, for the results of such versions alone
    )

    try:
        key = TrialSpec.parse(record["spec"], "spec").key
    except (KeyError, ValueError) as error:
        raise DamagedError(f"its settings are none of a trial: {error}") from None
    if key != record["key"]:
        raise DamagedError(f"its settings are those of trial {key}")


def look_file(key: str, look: str) -> str:
    """Where what the look of a key found at a trial is kept."""
    return f"trials/{key}/look-{look}.json"


def with_looks(record: Record, found: Mapping[str, Record]) -> Record:
    """A trial's record, with the metrics of what looks at it found, by their names, among its own."""
    if not found:
        return record
    metrics = {f"{name}/{metric}": n for name, one in found.items() for metric, n in one["metrics"].items()}
    return {**record, "metrics": {**record["metrics"], **metrics}}


def _json(record: Record) -> bytes:
    return json.dumps(record, indent=1, allow_nan=False).encode()
