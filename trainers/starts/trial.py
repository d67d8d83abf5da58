"""A training that starts from the weights of another trial."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from trainers.spec import InputError
from trainers.start import Kept, Start, Task, Weights


class TrialStart(Start, kind="trial"):
    """The final weights of a finished trial of the same store, which have to be kept there (`run.keep`)."""

    smoke: ClassVar[dict[str, Any]] = {"of": "0" * 16}
    of: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """Key of the trial, as opsctl sweep prints it."""

    def weights(self, task: Task, kept: Kept | None) -> Weights:
        if kept is None:
            raise InputError(
                "start: only a sweep knows the weights of other trials; write {kind: weights, path: ...}"
            )
        if (found := kept(self.of)) is None:
            raise no_weights(self.of)
        return found


def no_weights(key: str) -> InputError:
    """The error for a trial whose weights are not in the store."""
    return InputError(
        f"start: there are no weights of the trial {key} in the store: run its sweep first, with "
        "--set run.keep=weights; if it has run already, add a probe to it, which trains it again"
    )
