"""The budget of a search that tries only some cells of a sweep: how many trials may still run, and which
cells were begun. The n-th of these is stored as `searches/<key>/<n>`.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from orchestrator.storage.storage import Storage


@dataclass(frozen=True)
class Bound:
    """Of the trials that have not ended: the keys of those that are certain to run, and how many will run
    at most."""

    sure: frozenset[str]
    most: int


@dataclass(frozen=True)
class Quota:
    """The limit of a search: its key in storage, how many cells it tries at most, and the cell of each
    trial of the sweep, by the trial's key and under its name in storage."""

    search: str
    most: int
    cells: Mapping[str, str]

    def begun(self, storage: Storage) -> frozenset[str]:
        """The cells that the search has begun, in any driver. Raises OSError."""
        folder = f"searches/{self.search}"
        found = storage.read_all([f"{folder}/{name}" for name in storage.names(folder)])
        return frozenset(data.decode(errors="replace") for data in found.values() if data is not None)

    def bound(self, ended: Set[str], begun: Set[str]) -> Bound:
        """What may run once the trials with these keys have ended. A cell whose trials have all ended
        counts as tried, whoever ran them; of the others the largest may come next."""
        cells: dict[str, list[str]] = {}
        for key, cell in self.cells.items():
            cells.setdefault(cell, []).extend([] if key in ended else [key])
        tried = {cell for cell, left in cells.items() if not left or cell in begun}
        sure = frozenset(key for cell in tried for key in cells[cell])
        sizes = sorted((len(left) for cell, left in cells.items() if cell not in tried), reverse=True)
        return Bound(sure, len(sure) + sum(sizes[: max(0, self.most - len(tried))]))
