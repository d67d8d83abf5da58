"""How far a sweep is: what its store says of every trial of its outline.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.depots.results import Ledger, LookKeys, Record, with_looks
from orchestrator.depots.summaries import heads, summaries
from orchestrator.outline import Entry, Outline

NOTHING: dict[str, Any] = {"curves": {}, "fields": {}}


@dataclass(frozen=True)
class Standing:
    """What has become of the trials of a sweep, by key; a trial in none of these is missing. Results may lack
    their histories; among their metrics are those of looks, `<look>/<metric>`.

    `findings` has what the looks at a trial found, whole, by the trial's key and the look's name: as far as
    they did, where the trial is missing. `trained` are the missing trials that have a result and lack looks.
    """

    outline: Outline
    results: Mapping[str, Record]
    failures: Mapping[str, Record]
    stopped: frozenset[str]
    findings: Mapping[str, Mapping[str, Record]] = field(default_factory=dict)
    trained: frozenset[str] = frozenset()
    most: int | None = None  # of a guided search: how many trials may yet run

    @property
    def total(self) -> int:
        """How many trials the sweep comes to: all of them, or as many as a guided search runs at most."""
        return len(self.outline.entries) if self.most is None else self.settled + self.most

    @property
    def settled(self) -> int:
        """How many trials have ended, one way or another."""
        return len(self.results) + len(self.failures) + len(self.stopped)

    @property
    def missing(self) -> int:
        """How many trials are yet to run."""
        return self.total - self.settled

    @property
    def counts(self) -> str:
        """`2 of 4 trials done, 1 failed, 1 missing`"""
        stopped = f"{len(self.stopped)} stopped early, " if self.stopped else ""
        trained = f" ({len(self.trained)} trained, and without their looks)" if self.trained else ""
        return (
            f"{len(self.results)} of {self.total} trials done, {len(self.failures)} failed, "
            f"{stopped}{self.missing} missing{trained}"
        )

    def failed(self) -> list[tuple[Entry, Record]]:
        """Trials that have failed, in the order of the sweep, and their failures."""
        entries = self.outline.entries
        return [(entry, self.failures[entry.key]) for entry in entries if entry.key in self.failures]

    def doubts(self) -> list[tuple[Entry, str]]:
        """Finished trials with what their evaluation, or their checkpoints, gave as a warning."""
        records = ((entry, self.results.get(entry.key, {})) for entry in self.outline.entries)
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


def look(outline: Outline, ledger: Ledger, seen: Standing | None = None) -> Standing:
    """How far the sweep is now. Results that were `seen` before are not read again. Raises OSError."""
    keys = {entry.key: entry.looks for entry in outline.entries}
    known = dict(seen.results) if seen is not None else {}
    fresh = summaries(ledger, keys.keys() - known.keys())
    found = heads(ledger, {key: keys[key] for key in fresh if keys[key]})
    whole = {key for key in fresh if len(found.get(key, ())) == len(keys[key])}
    results = known | {key: with_looks(fresh[key], found.get(key, {})) for key in whole}
    findings = dict(seen.findings) if seen is not None else {}
    findings |= {key: Findings(ledger, key, keys[key], short) for key, short in found.items() if short}
    left = keys.keys() - results.keys()
    stopped = ledger.ended() & left - fresh.keys() if outline.stops and left else set()
    failed = ledger.failures((ledger.failed() & left if left else set()) - stopped)
    trained = frozenset(fresh.keys() - whole - failed.keys())
    guided = outline.quota is not None
    most = outline.missing(results.keys() | failed.keys() | stopped, ledger.depot) if guided else None
    return Standing(outline, results, failed, frozenset(stopped), findings, trained, most)
