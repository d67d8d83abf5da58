"""Whose fault it is that a trial failed, which decides what happens next.

- `machine`: a process, a node or a disk failed, or a machine ran out of memory and Ray killed the process.
  The trial is tried again, after a pause that grows, and with fewer beside it where memory is short.
- `memory`: a GPU was too small for it. It is tried again with a larger share of one.
- `trial`: it diverged, or raised an exception of its own. It is tried again `run.retries` times, then left.
- `config`: the sweep asks for what cannot be. The sweep stops at once.

A data set is built by the same rules (what a lack of memory is to a trial, is a fault of its own here), but
for one: a mistake in it breaks the trials that read it, and stops the sweep only if all of its trials do. A
mistake about a trial may be about any; one about a data set is about one value of an axis, say a folder of
images that is torn.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import asdict, dataclass
from typing import Any, Literal

from poisons.durable import StoreError
from trainers import InputError
from trainers.loop import DivergenceError, Metrics
from trainers.redaction import redacted

Kind = Literal["machine", "memory", "trial", "config"]
BROKEN = re.compile("CUDA error|CUDNN_STATUS_(?!NOT_SUPPORTED)|CUBLAS_STATUS_|NCCL error|ECC error")


@dataclass(frozen=True)
class Fault:
    """Why an attempt at a trial failed, and whose fault that is. `poisoned`: its process must not go on."""

    kind: Kind
    error: str
    traceback: str | None = None
    history: tuple[Metrics, ...] = ()
    poisoned: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON types, for the ledger."""
        told = {name: value for name, value in asdict(self).items() if name != "poisoned"}
        return {**told, "history": list(self.history)}


def fault(error: BaseException) -> Fault:
    """The fault that an exception tells of, raised where a trial ran."""
    kind, broken = _kind(error)
    history = error.history if isinstance(error, DivergenceError) else ()
    text = "".join(traceback.format_exception(error))
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    told = f"{type(error).__name__}: {error}{notes}"
    return Fault(kind, redacted(told), redacted(text), history, broken)


def died(cause: str) -> Fault:
    """The fault of a trial whose process is gone, for a reason that Ray knows."""
    return Fault("machine", f"its worker process died; was there memory enough? ({cause})")


def killed_for_memory(most: float | None = None) -> Fault:
    """The fault of a process that Ray killed because its machine ran out of memory; `most` processes may run
    at a time from now on, if that has changed."""
    then = f"; from now on {most:g} at a time" if most is not None else ""
    return Fault("machine", f"its machine ran out of memory, and Ray killed its process{then}")


def is_out_of_memory(why: str) -> bool:
    """Whether what Ray says of a process that died is that its memory monitor killed it."""
    return "OutOfMemoryError" in why


def two_versions(what: str, wanted: str | None, found: str | None, where: str) -> str:
    """What to say to an author whose machines do not agree on the key of a trial or data set."""
    return (
        f"the key of this {what} is {wanted} for the driver and {found} for its worker on {where}: they have "
        "two versions of opsctl; install the same one on every machine, and run the same command again"
    )


def pause(faults: int) -> float:
    """Seconds before the next attempt, after so many faults of a machine: 1, 2, 4, ... 60."""
    return float(min(60, 2 ** (faults - 1)))


def _kind(error: BaseException) -> tuple[Kind, bool]:
    """Whose fault, and whether the process that raised it can no longer be trusted."""
    if isinstance(error, InputError):
        return "config", False
    if isinstance(error, MemoryError):
        return "memory", False
    if isinstance(error, StoreError | OSError):
        return "machine", False
    broken = isinstance(error, RuntimeError) and BROKEN.search(str(error)) is not None
    return ("machine" if broken else "trial"), broken
