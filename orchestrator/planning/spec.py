"""The sections of a sweep file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator.planning.axes import label
from orchestrator.storage.trial_spec import TrialSpec
from trainers import Spec
from trainers.numerical_platform import CpuIsa
from trainers.probe import Probe

KEEP_GB = 4.0  # 10⁹ bytes: about ninety ResNet-18s
Label = Annotated[str, BeforeValidator(lambda value: value if isinstance(value, dict) else label(value))]
"""The label of a value on an axis, which may be written as the value itself is: `16`, `[em, ops]`."""

MOST_OF_A_MACHINE = {"CPU": 4096, "GPU": 64}
JUDGED = ("test/clean_acc", "train/acc", "train/loss")  # metrics that every epoch of a trial reports


class RunSpec(Spec):
    """How a sweep is run: resources, retries, search. Never part of a key."""

    cpus_per_trial: PositiveFloat = 1
    """Processor cores that a trial takes."""
    gpus_per_trial: NonNegativeFloat | Literal["auto"] | None = None
    """A share of one GPU, or whole GPUs, for a trial; auto measures it; null is one if there is any."""
    cpus_per_data: PositiveFloat = 1
    """Processor cores of each worker that builds a data set."""
    cpu_isa: CpuIsa | None = None
    """Instruction set that workers are held to, so that machines agree; null is each processor's own."""
    workers_per_data: PositiveInt = 1
    """Workers that share the crafting of one data set."""
    max_concurrent: PositiveInt | None = None
    """Most trials at a time; null is as many as the machines hold."""
    retries: NonNegativeInt = 1
    """Retries of a trial after a fault of its own, such as divergence."""
    machine_retries: NonNegativeInt = 5
    """Retries of a trial after its process, machine or disk failed, counted from its last progress."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """What ends trials early that fall behind others at the same epoch."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """Which cells are tried: all, or num_samples of them, drawn at random or proposed by Optuna."""
    num_samples: PositiveInt | None = None
    """Number of cells that a search tries; needed by random and optuna alone."""
    mode: Literal["max", "min"] = "max"
    """Whether a scheduler or a search prefers a high or a low report.metric."""
    checkpoint_seconds: NonNegativeFloat = 60
    """Seconds between checkpoints of a trial, from which it resumes."""
    keep: Literal["auto", "weights", "none"] = "auto"
    """Whose weights are kept: those of the smallest networks, up to keep_gb; all; or none."""
    keep_gb: PositiveFloat = KEEP_GB
    """Gigabytes (10⁹ bytes) of weights that `keep: auto` keeps, over all trials of the sweep."""
    max_points: PositiveInt = 20_000
    """Largest size of the grid; a larger one is taken for a mistake."""

    def with_kept_weights(self, *, keep: bool) -> RunSpec:
        """The same for one trial, for which it has been decided whether its weights are kept."""
        return self.model_copy(update={"keep": "weights" if keep else "none", "keep_gb": KEEP_GB})

    @field_validator("cpus_per_trial", "cpus_per_data", "gpus_per_trial")
    @classmethod
    def _some_machine_has_it(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        what = str(info.field_name)[:3].upper()
        if isinstance(value, float) and value > MOST_OF_A_MACHINE[what]:
            raise ValueError(f"no machine has {value:,g} {what}s; write at most {MOST_OF_A_MACHINE[what]:,}")
        if isinstance(value, float) and what == "GPU" and value > 1 and value % 1:
            raise ValueError(
                f"{value:g} is neither a share of one GPU, such as 0.25, nor a number of whole GPUs"
            )
        return value

    @model_validator(mode="after")
    def _a_limit_is_for_auto(self) -> Self:
        if self.keep != "auto" and self.keep_gb != KEEP_GB:
            raise ValueError(
                f"keep: {self.keep} keeps {'no' if self.keep == 'none' else 'all'} weights, so keep_gb: "
                f"{self.keep_gb:g} says nothing; leave it out, or write keep: auto"
            )
        return self

    @model_validator(mode="after")
    def _samples_are_for_a_search(self) -> Self:
        if self.search == "grid" and self.num_samples is not None:
            raise ValueError(
                f"search: grid runs every cell, so num_samples: {self.num_samples} says nothing; "
                "leave it out, or write search: random or search: optuna"
            )
        if self.search != "grid" and self.num_samples is None:
            raise ValueError(
                f"search: {self.search} needs a limit on the number of cells; write num_samples: 30"
            )
        return self


class ProbeSpec(Spec):
    """A probe of every trial of a sweep.

    `sets: {em: {poison: em}, shuffled em: {poison: em, shuffled: true}}` names two data sets to compare. A
    probe changes nothing about the trial, so it is no part of the trial's key.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,49}$")
    """Name of its findings and metrics; the kind of the probe if left out."""
    probe: Probe
    """What is measured; its settings may stand beside `name` and `sets`."""
    sets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Data sets to compare, by name: the trial's own with these fields of `data` changed."""

    @model_validator(mode="before")
    @classmethod
    def _a_probe_by_its_kind(cls, value: Any) -> Any:
        """`distance` and `{kind: distance, name: ..., sets: ..., <settings>}` are probes too; one without
        a name goes by its kind."""
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or "probe" in value:
            return value
        own = {name: v for name, v in value.items() if name in ("name", "sets")}
        probe = {name: v for name, v in value.items() if name not in own}
        return {"name": probe.get("kind"), **own, "probe": probe}


class Claim(Spec):
    """Something that a sweep is run to see: that one cell is lower than another, or than a number.

    Cells are named by the labels of some axes, `{data.poison: OPS}`; axes that neither side names are walked,
    and the claim has to hold at each of their points.
    """

    says: str = Field(min_length=1)
    """The claim in words."""
    lower: dict[str, Label] | float
    """The cell that should be lower, by the labels of some axes, or a number in the metric's unit."""
    higher: dict[str, Label] | float
    """The cell that should be higher, written likewise."""
    where: dict[str, tuple[Label, ...]] = Field(default_factory=dict)
    """Labels, by axis, of the points at which it has to hold; all by default."""
    margin: float = 0.0
    """They have to differ by more than this, in the unit of the report (points for accuracies)."""


class ReportSpec(Spec):
    """The table at the end: mean ± std of a metric over the seeds in each cell."""

    rows: tuple[str, ...] = ()
    """One axis or several, down the table; by default all that are not across, without seeds."""
    columns: str | None = None
    """Axis across the table; null is the second axis, or the first that `rows` does not name."""
    metric: str = "test/clean_acc"
    """Metric in the cells, which a scheduler or a search also goes by."""
    metrics: dict[str, str] = Field(default_factory=dict)
    """Several metrics by their labels; `metric` is then the name of one more axis."""
    reference: str | None = None
    """Published figures to set cells beside, by their labels, such as ops_paper/table2."""
    compare: tuple[tuple[Label, Label], ...] = ()
    """Pairs of columns, compared seed by seed."""
    summary: tuple[Label, ...] = ()
    """Columns whose mean and worst (lowest) are shown for each row; the highest row of each is marked."""
    claims: tuple[Claim, ...] = ()
    """What the sweep is run to see; the report says what holds."""

    @field_validator("metrics")
    @classmethod
    def _no_metric_twice(cls, value: dict[str, str]) -> dict[str, str]:
        known: dict[str, str] = {}
        for name, metric in value.items():
            if known.setdefault(metric, name) != name:
                raise ValueError(f"{known[metric]!r} and {name!r} are both {metric!r}; leave one out")
        return value

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of all metrics that the report shows."""
        return tuple(self.metrics.values()) or (self.metric,)

    @field_validator("rows", mode="before")
    @classmethod
    def _one_is_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def is_seed(axis: str) -> bool:
    """Whether an axis only repeats trials: `seed` of the training, or `data.seed` of the poison."""
    return axis.rpartition(".")[2] == "seed"


class SweepSpec(Spec):
    """One question, and the grid of trials that answers it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Name of the sweep in plans, reports and MLflow."""
    question: str = Field(min_length=1)
    """The question that the sweep answers, in words."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Settings that all trials share: the fields of `opsctl kinds base`."""
    grid: dict[str, Any]
    """Axes: a path inside `base` and its values, as a list or as a mapping from labels to values."""
    skip: tuple[dict[str, Any], ...] = ()
    """Points of the grid to leave out: those whose values match all of a rule's."""
    probes: tuple[ProbeSpec, ...] = ()
    """Further measurements of each trained network."""
    run: RunSpec = RunSpec()
    """Resources, retries and search; none of it changes what a trial computes."""
    report: ReportSpec = ReportSpec()
    """The table to print."""

    @classmethod
    def inner_fields(cls) -> Iterator[tuple[str, ...]]:
        """Those of a trial are in `base`."""
        yield from (("base", name) for name in TrialSpec.model_fields)
        yield from (("base", *path) for path in TrialSpec.inner_fields())
        yield from (path for path in super().inner_fields() if path[0] in ("run", "report"))

    @model_validator(mode="after")
    def _every_epoch_can_be_judged(self) -> Self:
        if self.run.scheduler != "none" and self.report.metric not in JUDGED:
            raise ValueError(
                f"run.scheduler: {self.run.scheduler} judges a trial after each epoch, when report.metric "
                f"{self.report.metric!r} is not known yet; write one of: {', '.join(JUDGED)}; "
                "or scheduler: none"
            )
        return self

    def report_axes(self) -> tuple[tuple[str, ...], str | None]:
        """The axes down and the axis across: those of the report, by default the first axis down and the
        second across."""
        axes = [axis for axis in self.grid if not is_seed(axis)]
        across = [axis for axis in axes if axis not in self.report.rows]
        columns = self.report.columns or next(iter(across if self.report.rows else across[1:]), None)
        return self.report.rows or tuple(axis for axis in axes if axis != columns), columns
