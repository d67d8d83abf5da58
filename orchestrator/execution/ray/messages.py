"""What workers and the driver of a sweep send each other."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, final

from orchestrator.execution.faults import FaultRecord
from orchestrator.storage.records import Result
from trainers.families import Metrics


class WorkerId(TypedDict):
    """A worker: the id of its process, its number in Tune, its share of a GPU, and where it runs."""

    worker: str
    number: int
    share: float
    node: str
    card: str  # an id of its GPUs, unique in the cluster; "" if it has none


class Ended(TypedDict):
    """How an attempt ended: with a `record`, `stopped` by the scheduler, or with a `fault`."""

    attempt: int
    record: NotRequired[Result]
    stopped: NotRequired[Literal[True]]
    rows: NotRequired[list[Metrics]]  # epochs that were not reported before it was stopped
    fault: NotRequired[FaultRecord]
    poisoned: NotRequired[bool]  # whether the process can no longer be trusted


@final
class Question(WorkerId):
    """A worker asks for its next order, now that its last attempt, if any, has ended."""

    ended: Ended | None


@final
class Epochs(TypedDict):
    """A worker reports epochs of an attempt."""

    attempt: int
    rows: list[Metrics]


@final
class Order(TypedDict):
    """A trial to run."""

    attempt: int
    key: str
    trial: str  # a TrialSpec, as JSON
    keep: bool  # whether to keep its weights
    probes: NotRequired[str]  # PlannedProbes, as JSON


@final
class Dismissal(TypedDict):
    """The worker is to end."""

    end: Literal[True]


Message = Question | Epochs
Answer = Order | Dismissal
Answers = dict[str, Answer]  # by the id of the worker's process
