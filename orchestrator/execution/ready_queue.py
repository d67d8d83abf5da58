"""Trials that can start, by the share of a GPU that they want, those first that are to be given out first."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator


class Ready:
    """Keys of trials with their ranks, of which the least comes first. Taking one costs the same however many
    wait, whatever they want."""

    def __init__(self) -> None:
        self._waiting: dict[float, list[tuple[int, str]]] = {}  # share -> rank and key, in their order

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def shares(self) -> list[float]:
        """The shares that are wanted."""
        return list(self._waiting)

    def count(self, share: float) -> int:
        return len(self._waiting.get(share, ()))

    def keys(self, share: float) -> Iterator[str]:
        """The trials that want this share, in their order."""
        return (key for _, key in self._waiting.get(share, ()))

    def add(self, key: str, rank: int, share: float) -> None:
        bisect.insort(self._waiting.setdefault(share, []), (rank, key))

    def take(self, share: float, barred: Collection[str] = ()) -> str | None:
        """The first that wants this share and is not `barred`; it waits no longer."""
        waiting = self._waiting.get(share, [])
        at = next((at for at, (_, key) in enumerate(waiting) if key not in barred), None)
        if at is None:
            return None
        _, key = waiting.pop(at)
        if not waiting:
            del self._waiting[share]
        return key

    def sort_out(self, share_of: Callable[[str], float]) -> None:
        """Have each trial among those that want what it wants by now."""
        entries = [entry for waiting in self._waiting.values() for entry in waiting]
        self._waiting = {}
        for rank, key in sorted(entries):
            self.add(key, rank, share_of(key))
