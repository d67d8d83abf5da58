"""What a report cannot do because of what somebody wrote."""

from __future__ import annotations


class ReportError(ValueError):
    """A reference, a table or a column that is not there; the message says what there is."""
