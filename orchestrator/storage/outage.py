"""An outage of storage, full or unreachable, is reported once, however many operations fail."""

from __future__ import annotations

from collections.abc import Callable

OVER_SECONDS = 60.0  # an outage is over after this long without an error


class Outage:
    """The storage errors of a driver."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._error = ""
        self._last = -float("inf")

    def begins(self, error: OSError) -> bool:
        """Record an error. Returns whether a new outage begins with it."""
        before = self.message
        self._error, self._last = str(error) or type(error).__name__, self.now()
        return not before

    @property
    def message(self) -> str:
        """The current error message; empty if there is no outage."""
        return self._error if self.now() - self._last < OVER_SECONDS else ""
