"""The ledger: one folder per trial in storage. `result.json`, written atomically, says that a trial is done,
and `look-<key>.json` has the finding of a probe.

A damaged file counts as missing. Publishing in its place moves it to `quarantine/`.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.storage.locations import open_storage
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
from trainers.redaction import redacted_data
from trainers.stored import DamagedError, JsonFile

ProbeKeys = Mapping[str, str]  # of the probes of one trial: their keys by their names
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

    def finding(self, key: str, probe: str) -> Record | None:
        """What the probe with that key found on a trial, or None."""
        return self.parsed(finding_file(key, probe), self.storage.read(finding_file(key, probe)))

    def complete(self, key: str, probes: ProbeKeys) -> Record | None:
        """The record of a finished trial with the findings of these probes: their metrics among its own, as
        `<probe>/<metric>`, and the findings themselves as `findings`. None if anything is missing."""
        found = {name: self.finding(key, probe) for name, probe in probes.items()}
        there = {name: record for name, record in found.items() if record is not None}
        record = self.result(key) if len(there) == len(probes) else None
        return (
            None if record is None else with_findings(record, there) | ({"findings": there} if there else {})
        )

    def findings(self, wanted: Mapping[str, ProbeKeys]) -> dict[str, dict[str, Record]]:
        """The findings that there are, by the trial's key, then by the probe's name."""
        read = self.storage.read_all(
            {finding_file(key, k) for key, probes in wanted.items() for k in probes.values()}
        )
        records = {file: self.parsed(file, data) for file, data in read.items()}
        found = {file: record for file, record in records.items() if record is not None}
        return {
            key: {
                name: found[finding_file(key, k)]
                for name, k in probes.items()
                if finding_file(key, k) in found
            }
            for key, probes in wanted.items()
        }

    def failure(self, key: str) -> Record | None:
        """The record of a trial's last failure, or None; a finished trial has none."""
        return self._read(key, "failure")

    def failures(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records of the last failures of these trials, by key, of those that have one."""
        return self._read_all(keys, "failure")

    def stopped(self, key: str) -> Record | None:
        """The scheduler's record of a trial that it pruned, or None; a finished trial has none."""
        return self._read(key, "stopped")

    def stops(self, keys: Iterable[str]) -> dict[str, Record]:
        """The scheduler's records of those of these trials that it pruned, by key."""
        return self._read_all(keys, "stopped")

    def done(self) -> set[str]:
        """The keys of all finished trials."""
        return self.storage.holders("trials", "result.json")

    def failed(self) -> set[str]:
        """The keys of all trials that have a failure."""
        return self.storage.holders("trials", "failure.json")

    def ended(self) -> set[str]:
        """The keys of all pruned trials."""
        return self.storage.holders("trials", "stopped.json")

    def kept(self) -> set[str]:
        """The keys of all trials whose weights are kept."""
        return self.storage.holders("trials", WEIGHTS)

    def publish(self, key: str, record: Record) -> Record:
        """Publish the result of a trial; from then on it is done. The history, being long, is last.

        A result that was published before stays, unless it is damaged. Returns the one that counts.
        """
        stored = {"key": key} | record | {"key": key}
        stored |= {"warnings": redacted_data(stored["warnings"])} if "warnings" in stored else {}
        before = self._publish(f"trials/{key}/result.json", _json(sealed(stored, last=HISTORY)))
        self.forget(key)
        return before or stored

    def publish_finding(self, key: str, probe: str, record: Record) -> None:
        """Publish what a probe found, unless it was published before. The file has a line for each field."""
        content = sealed({"key": probe} | {name: {} for name in LAST} | record | {"key": probe}, last=LAST)
        fields = (f" {json.dumps(name)}: {json.dumps(v, allow_nan=False)}" for name, v in content.items())
        self._publish(finding_file(key, probe), ("{\n" + ",\n".join(fields) + "\n}").encode())

    def fail(self, key: str, record: Record) -> None:
        """Record why a trial is not done. `kind` is the kind of the fault, see faults.py."""
        self._write(key, "failure", {"attempts": 1} | redacted_data(record) | {"key": key})

    def stop(self, key: str, record: Record) -> None:
        """Record that a scheduler pruned a trial, and when."""
        self._write(key, "stopped", record | {"key": key})

    def forget(self, key: str) -> None:
        """Remove the records of a trial's failure and pruning: it is missing, or done."""
        for name in ("failure", "stopped"):
            self.storage.remove(f"trials/{key}/{name}.json")

    def tidy(self, key: str) -> None:
        """Remove the checkpoint of a finished trial."""
        for name in (f"{CHECKPOINT}.sha256", CHECKPOINT):  # without the first the other is ignored
            self.storage.remove(f"trials/{key}/{name}")

    def parsed(self, name: str, data: bytes | None, *, short: bool = False) -> Record | None:
        """The record in a file of the ledger with this content, which may be cut `short` before its long
        fields. None if there is none, or if it is damaged; `damaged` then has the reason."""
        if data is None:
            return None
        try:
            return read_file(name, data, short=short)
        except DamagedError as error:
            self.damaged[name] = str(error)
            return None

    def _publish(self, name: str, data: bytes) -> Record | None:
        """Write `data` to `name`, unless it contains a readable record: then return that."""
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
    """The record in a file of the ledger, such as `trials/<key>/result.json`, with this content. Raises
    DamagedError, also for another trial's record, or one that was changed after it was published."""
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
    """Raises DamagedError unless the settings in a result of an earlier version, which has no digest, have
    its key."""
    from orchestrator.storage.trial_spec import (
        TrialSpec,  # imports torch, for the results of such versions alone
    )

    try:
        key = TrialSpec.parse(record["spec"], "spec").key
    except (KeyError, ValueError) as error:
        raise DamagedError(f"its settings are none of a trial: {error}") from None
    if key != record["key"]:
        raise DamagedError(f"its settings are those of trial {key}")


def finding_file(key: str, probe: str) -> str:
    """The file with the finding of a probe."""
    return f"trials/{key}/look-{probe}.json"


def with_findings(record: Record, found: Mapping[str, Record]) -> Record:
    """A trial's record, with the metrics of its probes, under their names, among its own."""
    if not found:
        return record
    metrics = {f"{name}/{metric}": n for name, one in found.items() for metric, n in one["metrics"].items()}
    return {**record, "metrics": {**record["metrics"], **metrics}}


def _json(record: Record) -> bytes:
    return json.dumps(record, indent=1, allow_nan=False).encode()
