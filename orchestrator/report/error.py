"""The error for invalid report options."""

from __future__ import annotations


class ReportError(ValueError):
    """A reference, table or column does not exist; the message lists those that do."""
