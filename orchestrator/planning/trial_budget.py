"""How many trials of a sweep may yet run when a search tries only some of its cells, and which cells it has
begun: they are written down in the storage, the n-th as `searches/<key>/<n>`.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from orchestrator.storage.storage import Storage


@dataclass(frozen=True)
class Bound:
    """Of the trials that have not ended: the keys of those that will run, and how many will at most."""

    sure: frozenset[str]
    most: int


@dataclass(frozen=True)
class Quota:
    """A guided search: its key in the storage, how many cells it tries at most, and the cell of every trial
    of the sweep, by the trial's key and as the storage names it."""

    search: str
    most: int
    cells: Mapping[str, str]

    def begun(self, storage: Storage) -> frozenset[str]:
        """The cells that the search has taken up, whichever driver did. Raises OSError."""
        folder = f"searches/{self.search}"
        found = storage.read_all([f"{folder}/{name}" for name in storage.names(folder)])
        return frozenset(data.decode(errors="replace") for data in found.values() if data is not None)

    def bound(self, ended: Set[str], begun: Set[str]) -> Bound:
        """What may run once these trials (keys) have ended. A cell whose trials all have counts as tried as
        well, whoever ran them; of the others the largest may be next."""
        cells: dict[str, list[str]] = {}
        for key, cell in self.cells.items():
            cells.setdefault(cell, []).extend([] if key in ended else [key])
        tried = {cell for cell, left in cells.items() if not left or cell in begun}
        sure = frozenset(key for cell in tried for key in cells[cell])
        sizes = sorted((len(left) for cell, left in cells.items() if cell not in tried), reverse=True)
        return Bound(sure, len(sure) + sum(sizes[: max(0, self.most - len(tried))]))
