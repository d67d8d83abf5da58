"""A priority queue of the trials that can start, for each share of a GPU."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator


class Ready:
    """Keys of trials in the order of their ranks, lowest first, for each share of a GPU. Taking one does not
    take longer if more are waiting."""

    def __init__(self) -> None:
        self._waiting: dict[float, list[tuple[int, str]]] = {}  # share -> rank and key, in their order

    @property
    def shares(self) -> list[float]:
        """The shares that waiting trials need."""
        return list(self._waiting)

    def keys(self, share: float) -> Iterator[str]:
        """The trials that need this share, in their order."""
        return (key for _, key in self._waiting.get(share, ()))

    def add(self, key: str, rank: int, share: float) -> None:
        bisect.insort(self._waiting.setdefault(share, []), (rank, key))

    def take(self, share: float, barred: Collection[str] = ()) -> str | None:
        """Remove and return the first trial that needs this share and is not `barred`, or None."""
        waiting = self._waiting.get(share, [])
        at = next((at for at, (_, key) in enumerate(waiting) if key not in barred), None)
        if at is None:
            return None
        _, key = waiting.pop(at)
        if not waiting:
            del self._waiting[share]
        return key

    def sort_out(self, share_of: Callable[[str], float]) -> None:
        """Requeue every trial under the share that it needs now."""
        entries = [entry for waiting in self._waiting.values() for entry in waiting]
        self._waiting = {}
        for rank, key in sorted(entries):
            self.add(key, rank, share_of(key))
