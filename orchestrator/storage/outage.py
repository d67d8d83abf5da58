"""That the store is full, or does not answer, is said once, however often it is asked."""

from __future__ import annotations

from collections.abc import Callable

WELL_SECONDS = 60.0  # without an error: it is well again


class Outage:
    """The store's errors, as a driver meets them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._error = ""
        self._last = -float("inf")

    def begins(self, error: OSError) -> bool:
        """Note an error; whether it is the first after the store was well."""
        before = self.word
        self._error, self._last = str(error) or type(error).__name__, self.now()
        return not before

    @property
    def word(self) -> str:
        """What it says just now; empty while it is well."""
        return self._error if self.now() - self._last < WELL_SECONDS else ""
