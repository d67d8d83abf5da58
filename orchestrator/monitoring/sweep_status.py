"""How far a sweep is: what its store says of every trial of its snapshot.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.planning.snapshot import Entry, Snapshot, lack
from orchestrator.storage.heartbeats import damaged_heartbeats
from orchestrator.storage.ledger import Ledger, LookKeys, with_looks
from orchestrator.storage.records import Record
from orchestrator.storage.summaries import heads, summaries

NOTHING: dict[str, Any] = {"curves": {}, "fields": {}}


@dataclass(frozen=True)
class SweepStatus:
    """What has become of the trials of a sweep, by key; a trial in none of these is missing. Results may lack
    their histories; among their metrics are those of looks, `<look>/<metric>`, as far as these have been.

    `findings` has what the looks at a trial found, whole, by the trial's key and the look's name. `lacking`
    has the names of the probes that a finished trial lacks; one of those may be among the `failures`, which
    is then that of a probe.
    """

    snapshot: Snapshot
    results: Mapping[str, Record]
    failures: Mapping[str, Record]
    stopped: frozenset[str]
    findings: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    most: int | None = None  # of a guided search: how many trials may yet run
    damaged: Mapping[str, str] = field(default_factory=dict)  # files that count as missing, and why

    @property
    def total(self) -> int:
        """How many trials the sweep comes to: all of them, or as many as a guided search runs at most."""
        return len(self.snapshot.entries) if self.most is None else self.settled + self.most

    @property
    def settled(self) -> int:
        """How many trials have ended, one way or another."""
        return len(self.results) + len(self.failures.keys() - self.results.keys()) + len(self.stopped)

    @property
    def missing(self) -> int:
        """How many trials have yet to be trained."""
        return self.total - self.settled

    @property
    def left(self) -> int:
        """How many trials have yet to run: those that are missing, and those whose probes are."""
        return self.missing + len(self.lacking.keys() - self.failures.keys())

    @property
    def lacking_by_probe(self) -> dict[str, int]:
        """How many finished trials lack each probe, in the order of the sweep."""
        counts = Counter(name for names in self.lacking.values() for name in names)
        return {name: counts[name] for name in self.snapshot.probes if counts[name]}

    @property
    def counts(self) -> str:
        """`12 of 16 trials done, 12 lack distance, 1 failed, 3 missing`"""
        probes = [lack(count, name) for name, count in self.lacking_by_probe.items()]
        broken = len(self.failures.keys() & self.results.keys())
        failed = len(self.failures) - broken
        parts = [f"{len(self.results)} of {self.total} trials done", *probes]
        parts += [f"{broken} failed in a probe"] if broken else []
        parts += [f"{failed} failed"]
        parts += [f"{len(self.stopped)} stopped early"] if self.stopped else []
        return ", ".join([*parts, f"{self.missing} missing"])

    def failed(self) -> list[tuple[Entry, Record]]:
        """Trials that have failed, in the order of the sweep, and their failures."""
        entries = self.snapshot.entries
        return [(entry, self.failures[entry.key]) for entry in entries if entry.key in self.failures]

    def doubts(self) -> list[tuple[Entry, str]]:
        """Finished trials with what their evaluation, or their checkpoints, gave as a warning."""
        records = ((entry, self.results.get(entry.key, {})) for entry in self.snapshot.entries)
        return [(entry, text) for entry, record in records for text in record.get("warnings", ())]


class Findings(Mapping[str, Record]):
    """What looks at one trial found, by their names: of each what is short, and all of it once it is asked
    for."""

    def __init__(self, ledger: Ledger, key: str, looks: LookKeys, short: Mapping[str, Record]) -> None:
        self.ledger, self.key, self.looks = ledger, key, looks
        self.short = dict(short)

    def __getitem__(self, name: str) -> Record:
        if "curves" not in self.short[name]:  # it may be damaged, or gone, since it was looked into
            self.short[name] = self.ledger.look(self.key, self.looks[name]) or {**self.short[name], **NOTHING}
        return self.short[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.short)

    def __len__(self) -> int:
        return len(self.short)


def without_curves(found: Mapping[str, Record]) -> Mapping[str, Record]:
    """What looks at one trial found, of each at least what is short: nothing more is read for it."""
    return found.short if isinstance(found, Findings) else found


def read_status(snapshot: Snapshot, ledger: Ledger, seen: SweepStatus | None = None) -> SweepStatus:
    """How far the sweep is now. Results that were `seen` before are not read again, nor what probes had
    found. Raises OSError."""
    keys = {entry.key: entry.looks for entry in snapshot.entries}
    ledger.damaged.clear()
    results, findings = (dict(seen.results), dict(seen.findings)) if seen is not None else ({}, {})
    lacking = dict(seen.lacking) if seen is not None else {}
    fresh = summaries(ledger, keys.keys() - results.keys())
    results |= fresh
    asked = {key: keys[key] for key in (*fresh, *lacking) if keys[key]}
    for key, short in heads(ledger, asked).items():
        results[key] = with_looks(results[key], short)
        findings |= {key: Findings(ledger, key, keys[key], short)} if short else {}
        lacking[key] = tuple(name for name in keys[key] if name not in short)
    lacking = {key: names for key, names in lacking.items() if names}
    untrained = keys.keys() - results.keys()
    stopped = ledger.ended() & untrained if snapshot.stops and untrained else set()
    left = untrained - stopped | lacking.keys()
    failed = ledger.failures(ledger.failed() & left if left else set())
    guided = snapshot.quota is not None
    most = snapshot.missing(results.keys() | failed.keys() | stopped, ledger.storage) if guided else None
    damaged = {**ledger.damaged, **damaged_heartbeats(ledger.storage)}
    return SweepStatus(snapshot, results, failed, frozenset(stopped), findings, lacking, most, damaged)
