"""How far a sweep is: what its store says of every trial of its outline.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.depots.results import Ledger, Record
from orchestrator.depots.summaries import summaries
from orchestrator.outline import Entry, Outline


@dataclass(frozen=True)
class Standing:
    """What has become of the trials of a sweep, by key; a trial in none of these is missing. Results may lack
    their histories."""

    outline: Outline
    results: Mapping[str, Record]
    failures: Mapping[str, Record]
    stopped: frozenset[str]

    @property
    def total(self) -> int:
        return len(self.outline.entries)

    @property
    def missing(self) -> int:
        return self.total - len(self.results) - len(self.failures) - len(self.stopped)

    @property
    def counts(self) -> str:
        """`2 of 4 trials done, 1 failed, 1 missing`"""
        stopped = f"{len(self.stopped)} stopped early, " if self.stopped else ""
        return (
            f"{len(self.results)} of {self.total} trials done, {len(self.failures)} failed, "
            f"{stopped}{self.missing} missing"
        )

    def failed(self) -> list[tuple[Entry, Record]]:
        """Trials that have failed, in the order of the sweep, and their failures."""
        entries = self.outline.entries
        return [(entry, self.failures[entry.key]) for entry in entries if entry.key in self.failures]

    def doubts(self) -> list[tuple[Entry, str]]:
        """Finished trials with what their evaluation, or their checkpoints, gave as a warning."""
        records = ((entry, self.results.get(entry.key, {})) for entry in self.outline.entries)
        return [(entry, text) for entry, record in records for text in record.get("warnings", ())]


def look(outline: Outline, ledger: Ledger, seen: Standing | None = None) -> Standing:
    """How far the sweep is now. Results that were `seen` before are not read again. Raises OSError."""
    keys = {entry.key for entry in outline.entries}
    known = dict(seen.results) if seen is not None else {}
    results = known | summaries(ledger, keys - known.keys())
    left = keys - results.keys()
    stopped = ledger.ended() & left if outline.stops and left else set()
    failures = {key: ledger.failure(key) for key in (ledger.failed() & left if left else set())}
    found = {key: record for key, record in failures.items() if record is not None and key not in stopped}
    return Standing(outline, results, found, frozenset(stopped))
