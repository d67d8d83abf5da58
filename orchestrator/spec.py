"""What a trial is, and what a sweep file holds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from poisons import DataSpec
from trainers import Spec
from trainers.trial import Trial


class TrialSpec(Trial):
    """One training run: its data set, its recipe, its evaluation, its seed. One key, one result."""

    data: DataSpec = DataSpec()

    @property
    def test_data(self) -> DataSpec:
        """The clean test images that go with the training data."""
        return DataSpec(source=self.data.source, split="test", limit=self.evaluation.limit)

    @property
    def needs(self) -> tuple[DataSpec, DataSpec]:
        return self.test_data, self.data


class RunSpec(Spec):
    """How a sweep is run: resources and patience. Never part of a key."""

    cpus_per_trial: PositiveFloat = 1
    gpus_per_trial: NonNegativeFloat | None = None  # default: one where the machine has any
    cpus_per_data: PositiveFloat = 1
    workers_per_data: PositiveInt = 1  # that share the work on one data set, each with cpus_per_data
    max_concurrent: PositiveInt | None = None
    retries: NonNegativeInt = 1  # of a trial that failed
    checkpoint_seconds: NonNegativeFloat = 60  # between checkpoints of a trial, from which it resumes
    keep: Literal["weights"] | None = None  # of trials run from now on: trials/<key>/weights.pt
    max_points: PositiveInt = 20_000  # of the grid: beyond lies a mistake, until told otherwise


class ReportSpec(Spec):
    """The table at the end: an axis (or several) down, an axis across, mean ± std of `metric` over the
    seeds."""

    rows: tuple[str, ...] = ()
    columns: str | None = None
    metric: str = "test/clean_acc"

    @field_validator("rows", mode="before")
    @classmethod
    def _one_is_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def is_seed(axis: str) -> bool:
    """Whether an axis only repeats: `seed`, of the training, or `data.seed`, of the poison."""
    return axis.rpartition(".")[2] == "seed"


class SweepSpec(Spec):
    """One question, and the grid of trials that answers it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    question: str = Field(min_length=1)
    base: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any]
    skip: tuple[dict[str, Any], ...] = ()
    run: RunSpec = RunSpec()
    report: ReportSpec = ReportSpec()

    def report_axes(self) -> tuple[tuple[str, ...], str | None]:
        """The axes down and the axis across: as the report says, else the first down, the second across."""
        axes = [axis for axis in self.grid if not is_seed(axis)]
        across = [axis for axis in axes if axis not in self.report.rows]
        columns = self.report.columns or next(iter(across if self.report.rows else across[1:]), None)
        return self.report.rows or tuple(axis for axis in axes if axis != columns), columns
