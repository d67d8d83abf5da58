"""The share of a GPU that each trial gets: as the sweep says, or as it was measured for trials of the same
shape."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict

from orchestrator.estimates import packing
from orchestrator.estimates.packing import larger, shape_key
from orchestrator.planning.extents import Extents
from orchestrator.planning.plan import Task
from trainers.gpu_profile import GpuProfile


class Shares:
    """The same share for every trial: a whole GPU, or none."""

    def __init__(self, share: float) -> None:
        self.share = share

    @staticmethod
    def fixed(share: float) -> Shares:
        return Shares(share)

    def of(self, task: Task) -> float | None:
        """The share of a trial, 0 for none; None if it must be measured first."""
        return self.share

    def grow(self, task: Task, share: float) -> bool:
        """A trial ran out of memory with this share: whether there is a larger one to try."""
        return False


class Shaped(Shares):
    """Shares by the shape of a trial, which grow when they were too small."""

    def __init__(
        self, kept: packing.ShareStore, extents: Extents, device: str, tasks: Iterable[Task]
    ) -> None:
        """`kept` remembers what was learned on GPUs called `device`; `tasks` are all that may ask."""
        self.kept, self.device = kept, device
        self.shapes: dict[str, str] = {}  # key of a trial -> its shape
        self.known: dict[str, float] = {}  # shape -> share
        for task in tasks:
            train = extents.of(task.trial.data)
            shape = shape_key(task.trial, train.shape, train.images, train.num_classes)
            self.shapes[task.key] = shape
        for shape in dict.fromkeys(self.shapes.values()):
            if (record := kept.recall(shape, device)) is not None:
                self._recalled(shape, record)

    def of(self, task: Task) -> float | None:
        return self.known.get(self.shapes[task.key])

    def grow(self, task: Task, share: float) -> bool:
        if not 0 < share < 1:
            return False
        shape = self.shapes[task.key]
        self.known[shape] = max(self.known.get(shape, 0.0), larger(share))
        with suppress(OSError):  # on a full disk only this driver has the new share
            self.kept.grow(shape, self.device, share)
        return True

    def _recalled(self, shape: str, record: packing.ShareRecord) -> None:
        """Something is remembered of this shape."""
        self.known[shape] = float(record["share"])


class Given(Shaped):
    """`run.gpus_per_trial: 0.25`: the share that the sweep sets, except for shapes that ran out of memory
    with it, in this sweep or an earlier one."""

    def __init__(
        self, share: float, kept: packing.ShareStore, extents: Extents, device: str, tasks: Iterable[Task]
    ) -> None:
        self.share = share
        super().__init__(kept, extents, device, tasks)

    def of(self, task: Task) -> float | None:
        return super().of(task) or self.share

    def _recalled(self, shape: str, record: packing.ShareRecord) -> None:
        if record.get("grown"):  # the setting takes precedence over a measured share, but not over a failure
            self.known[shape] = max(self.share, float(record["share"]))


class Measured(Shaped):
    """`run.gpus_per_trial: auto`: trials of one shape get the share that profiling one of them found, and
    more after it was too small."""

    def __init__(
        self, kept: packing.ShareStore, extents: Extents, device: str, tasks: Iterable[Task]
    ) -> None:
        tasks = list(tasks)
        super().__init__(kept, extents, device, tasks)
        self.wanted: dict[str, Task] = {}  # shape to measure -> a trial to measure it with
        for task in tasks:
            if (shape := self.shapes[task.key]) not in self.known:
                self.wanted.setdefault(shape, task)

    def measured(self, shape: str, found: GpuProfile, total_bytes: int) -> float:
        """Store the share of trials of this shape, on GPUs with this much memory."""
        share = packing.share(found.peak_bytes, total_bytes, found.busy)
        self.known[shape] = share
        self.wanted.pop(shape, None)
        with suppress(OSError):
            self.kept.remember(shape, self.device, {**asdict(found), "share": share})
        return share

    def unknown(self, shape: str) -> None:
        """It could not be measured: use a whole GPU, for now."""
        self.known[shape] = 1.0
        self.wanted.pop(shape, None)
