"""The ledger: one folder per trial in storage. `result.json`, written atomically, says that a trial is done,
and `look-<key>.json` has the finding of a probe. What is long has a file of its own, which is written before
and whose name contains its digest: so whichever of two results is published first, its own history is read.

A damaged file counts as missing, and so does a result or finding without its long fields. Publishing in its
place moves it to `quarantine/`.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.storage.kinds import FAILURES, FINDINGS, RESULTS, STOPS, Kind, T, key_of, unsealed
from orchestrator.storage.locations import open_storage
from orchestrator.storage.quarantine import quarantine
from orchestrator.storage.records import Failure, Finding, Result, Stopped, sealed
from orchestrator.storage.storage import Storage
from poisons.records import RECORD
from trainers.redaction import redacted_data
from trainers.stored import DamagedError

ProbeKeys = Mapping[str, str]  # of the probes of one trial: their keys by their names
CHECKPOINT = "checkpoint.pt"  # in a trial's folder
WEIGHTS = "weights.pt"
BATCH = 500  # files in memory at a time
Read = Callable[[Kind[T], Collection[str]], dict[str, T]]  # files of a kind, by their names
_LOOK = re.compile(r"([^/]+)/look-([^/]+)\.json")


class Ledger:
    """Results and failures of trials under `trials/<key>/` of the storage at `where`."""

    def __init__(self, where: Storage | Path | str) -> None:
        self.storage = where if isinstance(where, Storage) else open_storage(where)
        self.damaged: dict[str, str] = {}  # files that were read and are damaged, and why

    def result(self, key: str) -> Result | None:
        """The record of a finished trial, or None."""
        return self.results([key]).get(key)

    def results(self, keys: Iterable[str]) -> dict[str, Result]:
        """The records of all of these trials that are finished, by key."""
        return _by_key(self._whole, RESULTS, keys)

    def summaries(self, keys: Iterable[str]) -> dict[str, Result]:
        """`results` without histories, of which it is only seen that they are there."""
        return _by_key(self._summaries, RESULTS, keys)

    def finding(self, key: str, probe: str) -> Finding | None:
        """What the probe with that key found on a trial, or None."""
        return self._whole(FINDINGS, [file := finding_file(key, probe)]).get(file)

    def findings(self, wanted: Mapping[str, ProbeKeys]) -> dict[str, dict[str, Finding]]:
        """The findings that there are, by the trial's key, then by the probe's name."""
        return _by_probe(self._whole, wanted)

    def finding_summaries(self, wanted: Mapping[str, ProbeKeys]) -> dict[str, dict[str, Finding]]:
        """`findings` without curves and fields, of which it is only seen that they are there."""
        return _by_probe(self._summaries, wanted)

    def complete(self, key: str, probes: ProbeKeys) -> Result | None:
        """The record of a finished trial, with the metrics of these probes among its own, as
        `<probe>/<metric>`. None if anything is missing."""
        found = self.findings({key: probes})[key]
        record = self.result(key) if len(found) == len(probes) else None
        return None if record is None else with_findings(record, found)

    def failure(self, key: str) -> Failure | None:
        """The record of a trial's last failure, or None; a finished trial has none."""
        return self.failures([key]).get(key)

    def failures(self, keys: Iterable[str]) -> dict[str, Failure]:
        """The records of the last failures of these trials, by key, of those that have one."""
        return _by_key(self._whole, FAILURES, keys)

    def stopped(self, key: str) -> Stopped | None:
        """The scheduler's record of a trial that it pruned, or None; a finished trial has none."""
        return self.stops([key]).get(key)

    def stops(self, keys: Iterable[str]) -> dict[str, Stopped]:
        """The scheduler's records of those of these trials that it pruned, by key."""
        return _by_key(self._whole, STOPS, keys)

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

    def imported(self) -> set[str]:
        """The fingerprints of all imported perturbations."""
        return self.storage.holders("imports", RECORD)

    def probed(self) -> dict[str, dict[str, str]]:
        """The probes that have a finding, by the trial's key: for want of names, by their keys."""
        found: dict[str, dict[str, str]] = {}
        for match in filter(None, map(_LOOK.fullmatch, self.storage.files("trials"))):
            found.setdefault(match[1], {})[match[2]] = match[2]
        return found

    def superseded(self, names: Collection[str]) -> set[str]:
        """Those of these files that have long fields of a record which was not published, because another was
        there."""
        return self._superseded(RESULTS, names) | self._superseded(FINDINGS, names)

    def publish(self, key: str, record: Result) -> Result:
        """Publish the result of a trial; from then on it is done.

        A result that was published before stays, unless it is damaged. Returns the one that counts.
        """
        stored: Result = {**record, "key": key}
        if "warnings" in record:
            stored["warnings"] = redacted_data(record["warnings"])
        before = self._publish(RESULTS, RESULTS.name(key), stored)
        self.forget(key)
        return before or stored

    def publish_finding(self, key: str, probe: str, record: Finding) -> None:
        """Publish what a probe found, unless it was published before."""
        stored: Finding = {"curves": {}, "fields": {}, **record}
        self._publish(FINDINGS, finding_file(key, probe), stored)

    def fail(self, key: str, record: Failure) -> None:
        """Record why a trial is not done. `kind` is the kind of the fault, see faults.py."""
        self._write(FAILURES.name(key), {"attempts": 1} | redacted_data(record))

    def stop(self, key: str, record: Stopped) -> None:
        """Record that a scheduler pruned a trial, and when."""
        self._write(STOPS.name(key), record)

    def forget(self, key: str) -> None:
        """Remove the records of a trial's failure and pruning: it is missing, or done."""
        for name in ("failure", "stopped"):
            self.storage.remove(f"trials/{key}/{name}.json")

    def tidy(self, key: str) -> None:
        """Remove the checkpoint of a finished trial."""
        # the digest first: without it the checkpoint is ignored
        for name in (f"{CHECKPOINT}.sha256", CHECKPOINT):
            self.storage.remove(f"trials/{key}/{name}")

    def _publish(self, kind: Kind[T], name: str, record: T) -> T | None:
        """Write a record to `name`, unless there is one that can be read: then return that."""
        long = {field: record[field] for field in kind.long if field in record}
        short = {field: value for field, value in record.items() if field not in ("key", *long)}
        head = sealed({"key": key_of(name), **short}, long=long)
        if (file := kind.long_file(name, head)) is not None:
            self.storage.write(file, json.dumps(long, allow_nan=False).encode())
        for _ in range(3):  # another may replace a damaged file at the same time
            if self.storage.publish(name, _json(head)):
                return None
            if (found := self._whole(kind, [name]).get(name)) is not None:
                return found
            quarantine(self.storage, name)
        self.storage.write(name, _json(head))
        return None

    def _write(self, name: str, record: Mapping[str, object]) -> None:
        self.storage.write(name, _json({**record, "key": key_of(name)}))

    def _whole(self, kind: Kind[T], names: Collection[str]) -> dict[str, T]:
        """The records in these files with all of their fields, of those that are there and not damaged."""
        found = {}
        for batch in _batches(names):
            heads = self._heads(kind, batch)
            files = {name: kind.long_file(name, head) for name, head in heads.items()}
            read = self.storage.read_all({file for file in files.values() if file is not None})
            for name, head in heads.items():
                with self._noted(name):
                    found[name] = kind.whole(head, files[name], read.get(files[name] or ""))
        return found

    def _summaries(self, kind: Kind[T], names: Collection[str]) -> dict[str, T]:
        """The records in these files without their long fields, of those that are there and not damaged."""
        found: dict[str, T] = {}
        if not names:
            return found
        present = self.storage.presence("trials")
        for batch in _batches(filter(present, names)):
            for name, head in self._heads(kind, batch).items():
                file = kind.long_file(name, head)
                # it may have been published after it was listed
                if file is None or present(file) or self.storage.read(file) is not None:
                    found[name] = unsealed(head, *kind.long)
                else:
                    self.damaged[name] = f"its {file.rpartition('/')[2]} is missing"
        return found

    def _heads(self, kind: Kind[T], names: Iterable[str]) -> dict[str, T]:
        heads = {}
        for name, data in self.storage.read_all(names).items():
            with self._noted(name):
                if data is not None:
                    heads[name] = kind.head(name, data)
        return heads

    def _superseded(self, kind: Kind[T], names: Collection[str]) -> set[str]:
        owners = {name: owner for name in names if (owner := kind.owner(name)) is not None}
        heads = self._heads(kind, set(owners.values()))
        return {
            name
            for name, owner in owners.items()
            if owner in heads and kind.long_file(owner, heads[owner]) != name
        }

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """Notes in `damaged` why a file cannot be used."""
        try:
            yield
        except DamagedError as error:
            self.damaged[name] = str(error)


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(names)
    for start in range(0, len(wanted), BATCH):
        yield wanted[start : start + BATCH]


def finding_file(key: str, probe: str) -> str:
    """The file with the finding of a probe."""
    return f"trials/{key}/look-{probe}.json"


def _by_key(read: Read[T], kind: Kind[T], keys: Iterable[str]) -> dict[str, T]:
    files = {kind.name(key): key for key in keys}
    return {files[file]: record for file, record in read(kind, files).items()}


def _by_probe(read: Read[Finding], wanted: Mapping[str, ProbeKeys]) -> dict[str, dict[str, Finding]]:
    files = {key: {n: finding_file(key, k) for n, k in probes.items()} for key, probes in wanted.items()}
    found = read(FINDINGS, {file for named in files.values() for file in named.values()})
    return {
        key: {name: found[file] for name, file in named.items() if file in found}
        for key, named in files.items()
    }


def with_findings(record: Result, found: Mapping[str, Finding]) -> Result:
    """A trial's record, with the metrics of its probes, under their names, among its own."""
    if not found:
        return record
    metrics = {f"{name}/{metric}": n for name, one in found.items() for metric, n in one["metrics"].items()}
    return {**record, "metrics": {**record["metrics"], **metrics}}


def _json(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, indent=1, allow_nan=False).encode()
