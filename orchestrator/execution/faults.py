"""Kinds of faults: why a trial failed, which decides what happens next.

- `machine`: a process, a node or a disk failed, or a machine ran out of memory and Ray killed the process.
  The trial is retried after a pause that grows, and with fewer trials beside it where memory is short.
- `memory`: its share of a GPU was too small. It is retried with a larger share.
- `trial`: it diverged, or raised an exception. It is retried `run.retries` times, then recorded as failed.
- `config`: the sweep asks for something impossible. The sweep stops at once.

Data sets follow the same rules, with two exceptions. Running out of memory counts as a `trial` fault. And a
`config` fault fails only the trials that read the data set; it stops the sweep only if all of them do, for it
often concerns one value of an axis, such as a damaged folder of images.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import Literal, TypedDict

from poisons.durable import StoreError
from trainers import InputError
from trainers.families import Metrics
from trainers.loop import DivergenceError
from trainers.redaction import redacted

Kind = Literal["machine", "memory", "trial", "config"]
BROKEN = re.compile("CUDA error|CUDNN_STATUS_(?!NOT_SUPPORTED)|CUBLAS_STATUS_|NCCL error|ECC error")


class FaultRecord(TypedDict):
    """A fault, as JSON types."""

    kind: Kind
    error: str
    traceback: str | None
    history: list[Metrics]


@dataclass(frozen=True)
class Fault:
    """Why an attempt at a trial failed. `poisoned`: its process must not be used again."""

    kind: Kind
    error: str
    traceback: str | None = None
    history: tuple[Metrics, ...] = ()
    poisoned: bool = False

    def to_json(self) -> FaultRecord:
        """As JSON types, for the ledger."""
        return {
            "kind": self.kind,
            "error": self.error,
            "traceback": self.traceback,
            "history": list(self.history),
        }

    @classmethod
    def from_json(cls, record: FaultRecord) -> Fault:
        """The inverse of `to_json`."""
        history = tuple(record["history"])
        return cls(record["kind"], record["error"], record["traceback"], history)


def fault(error: BaseException) -> Fault:
    """The fault behind an exception that was raised where a trial ran."""
    kind, broken = _kind(error)
    history = error.history if isinstance(error, DivergenceError) else ()
    text = "".join(traceback.format_exception(error))
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    message = f"{type(error).__name__}: {error}{notes}"
    return Fault(kind, redacted(message), redacted(text), history, broken)


def died(cause: str) -> Fault:
    """The fault of a trial whose process died, for the reason that Ray gives."""
    return Fault("machine", f"its worker process died; was there memory enough? ({cause})")


def killed_for_memory(most: float | None = None) -> Fault:
    """The fault of a process that Ray killed because its machine ran out of memory. `most` is how many
    processes may run at a time from now on, if that changed."""
    then = f"; from now on {most:g} at a time" if most is not None else ""
    return Fault("machine", f"its machine ran out of memory, and Ray killed its process{then}")


def is_out_of_memory(why: str) -> bool:
    """Whether Ray gives its memory monitor as the reason why a process died."""
    return "OutOfMemoryError" in why or "running low on memory" in why


def two_versions(what: str, wanted: str | None, found: str | None, where: str) -> str:
    """The message for machines that compute different keys for the same trial or data set."""
    return (
        f"the key of this {what} is {wanted} for the driver and {found} for its worker on {where}: they have "
        "two versions of opsctl; install the same one on every machine, and run the same command again"
    )


def _kind(error: BaseException) -> tuple[Kind, bool]:
    """The kind of the fault, and whether the process that raised it can no longer be trusted."""
    if isinstance(error, InputError):
        return "config", False
    if isinstance(error, MemoryError):
        return "memory", False
    if isinstance(error, StoreError | OSError):
        return "machine", False
    broken = isinstance(error, RuntimeError) and BROKEN.search(str(error)) is not None
    return ("machine" if broken else "trial"), broken
