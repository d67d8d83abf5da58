"""The error of a user's mistake. Imports nothing heavy."""

from __future__ import annotations

from trainers.redaction import redacted


class InputError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to write instead. Credentials are
    redacted."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redacted(str(message)))
