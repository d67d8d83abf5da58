"""An outage of storage, full or unreachable, is reported once, however many operations fail."""

from __future__ import annotations

from collections.abc import Callable

WELL_SECONDS = 60.0  # without an error, after which an outage is over


class Outage:
    """The storage errors that a driver meets."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._error = ""
        self._last = -float("inf")

    def begins(self, error: OSError) -> bool:
        """Record an error. Returns whether a new outage begins with it."""
        before = self.word
        self._error, self._last = str(error) or type(error).__name__, self.now()
        return not before

    @property
    def word(self) -> str:
        """The current error message; empty if there is no outage."""
        return self._error if self.now() - self._last < WELL_SECONDS else ""
