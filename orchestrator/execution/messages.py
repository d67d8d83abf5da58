"""What the driver of a sweep sends its workers, and what these report."""

from __future__ import annotations

from typing import NotRequired, TypedDict, final

from orchestrator.execution.faults import FaultRecord
from orchestrator.storage.records import Result
from trainers.families import Metrics


@final
class Order(TypedDict):
    """A training to run."""

    attempt: int
    key: str
    trial: str  # a TrialSpec, as JSON
    keep: bool  # whether to keep its weights
    probes: NotRequired[str]  # PlannedProbes, as JSON


@final
class Begun(TypedDict):
    """A bundle begins on a machine."""

    node: str  # the machine's id in Ray
    rests: bool  # whether the machine must not be used now: none of its trainings will start


@final
class Started(TypedDict):
    """A training starts."""

    started: int  # the attempt


@final
class Epochs(TypedDict):
    """Epochs of an attempt."""

    attempt: int
    rows: list[Metrics]


@final
class Ended(TypedDict):
    """How an attempt ended: with a `record` or with a `fault`."""

    ended: int  # the attempt
    seconds: float  # that it took
    record: NotRequired[Result]
    fault: NotRequired[FaultRecord]


Message = Begun | Started | Epochs | Ended
