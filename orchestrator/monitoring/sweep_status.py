"""The progress of a sweep: the state of every trial of its snapshot, read from the store.

Imports only light modules, so that `opsctl status` starts instantly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.planning.snapshot import Entry, Snapshot, lack
from orchestrator.storage.heartbeats import damaged_heartbeats
from orchestrator.storage.ledger import Ledger, ProbeKeys, with_findings
from orchestrator.storage.records import Failure, Finding, Result


@dataclass(frozen=True)
class SweepStatus:
    """The state of a sweep's trials, by key; a trial in none of the mappings is missing. Results lack
    their histories; their metrics include those of finished probes, as `<probe>/<metric>`.

    `findings` has the complete findings of a trial's probes, by the trial's key and the probe's name.
    `lacking` has the names of the probes that a finished trial lacks. If such a trial is also among the
    `failures`, the failure is that of a probe.
    """

    snapshot: Snapshot
    results: Mapping[str, Result]
    failures: Mapping[str, Failure]
    stopped: frozenset[str]
    findings: Mapping[str, Mapping[str, Finding]] = field(default_factory=dict)
    lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    most: int | None = None  # in a guided search: how many more trials may run
    damaged: Mapping[str, str] = field(default_factory=dict)  # files that count as missing, and why

    @property
    def total(self) -> int:
        """How many trials the sweep has: all of them, or the most that a guided search runs."""
        return len(self.snapshot.entries) if self.most is None else self.settled + self.most

    @property
    def settled(self) -> int:
        """How many trials have ended: done, failed or stopped."""
        return len(self.results) + len(self.failures.keys() - self.results.keys()) + len(self.stopped)

    @property
    def missing(self) -> int:
        """How many trials are not trained yet."""
        return self.total - self.settled

    @property
    def left(self) -> int:
        """How many trials still have to run: missing ones, and those that lack probes."""
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

    def failed(self) -> list[tuple[Entry, Failure]]:
        """The failed trials with their failures, in the order of the sweep."""
        entries = self.snapshot.entries
        return [(entry, self.failures[entry.key]) for entry in entries if entry.key in self.failures]

    def doubts(self) -> list[tuple[Entry, str]]:
        """Finished trials with the warnings of their evaluation or checkpoints."""
        done = [(e, self.results[e.key]) for e in self.snapshot.entries if e.key in self.results]
        return [(entry, text) for entry, record in done for text in record.get("warnings", ())]


class Findings(Mapping[str, Finding]):
    """The findings of one trial's probes, by name. The short parts are held; a complete record is read when
    it is accessed."""

    def __init__(self, ledger: Ledger, key: str, keys: ProbeKeys, short: Mapping[str, Finding]) -> None:
        self.ledger, self.key, self.probe_keys = ledger, key, keys
        self.short = dict(short)

    def __getitem__(self, name: str) -> Finding:
        if "curves" not in self.short[name]:  # it may have been damaged or removed since its head was read
            found = self.ledger.finding(self.key, self.probe_keys[name])
            self.short[name] = found or {**self.short[name], "curves": {}, "fields": {}}
        return self.short[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.short)

    def __len__(self) -> int:
        return len(self.short)


def without_curves(found: Mapping[str, Finding]) -> Mapping[str, Finding]:
    """The findings of one trial's probes, at least their short parts; reads nothing."""
    return found.short if isinstance(found, Findings) else found


def read_status(snapshot: Snapshot, ledger: Ledger, previous: SweepStatus | None = None) -> SweepStatus:
    """The current status of a sweep. Results and findings of the `previous` status are not read again. Raises
    OSError."""
    keys = {entry.key: entry.probe_keys for entry in snapshot.entries}
    ledger.damaged.clear()
    results = dict(previous.results) if previous is not None else {}
    findings = dict(previous.findings) if previous is not None else {}
    lacking = dict(previous.lacking) if previous is not None else {}
    fresh = ledger.summaries(keys.keys() - results.keys())
    results |= fresh
    probes = {key: keys[key] for key in (*fresh, *lacking) if keys[key]}
    for key, short in ledger.finding_summaries(probes).items():
        results[key] = with_findings(results[key], short)
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
