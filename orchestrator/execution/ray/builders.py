"""Which data sets of a sweep are built, and when."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError
from ray.util.queue import Queue

from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault, fault, killed_for_memory
from orchestrator.execution.pressure import Pressure
from orchestrator.execution.progress import POLL_SECONDS, Progress
from orchestrator.execution.ray.build_task import start_build, with_gpu
from orchestrator.execution.ray.connect import Cluster, cause
from orchestrator.execution.requests import Claims, Request
from orchestrator.execution.retries import Retries
from orchestrator.storage.records import DataSetAtWork, DriverState
from orchestrator.storage.stores import open_driven
from poisons import DataSpec


@dataclass
class Builders:
    """The Ray tasks that build the data sets of a sweep."""

    context: SweepContext
    progress: Progress
    cluster: Cluster
    driver: str  # the id of its heartbeat in the store
    refs: dict[ray.ObjectRef, DataSpec] = field(default_factory=dict)
    mail: Queue | None = None
    status: dict[str, str] = field(default_factory=dict)  # the last progress of each, as text
    later: dict[str, float] = field(default_factory=dict)  # name -> when to retry or poll
    rows: Counter[str] = field(default_factory=Counter)  # progress reports of each, in this attempt
    most: Counter[str] = field(default_factory=Counter)  # the most progress reports of each in any attempt
    began: set[str] = field(default_factory=set)  # names of those that have started
    trained: set[str] = field(default_factory=set)  # names of shared networks that are trained
    pressure: Pressure = field(default_factory=Pressure)

    def __post_init__(self) -> None:
        self.retries = Retries(self.context.run)

    def poll(self) -> None:
        """Collect the reports of the builders and their results; submit what can be built now."""
        self._read_mail()
        ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0) if self.refs else ([], [])
        for ref in ready:
            self._ended(ref, self.refs.pop(ref))
        building = {spec.name for spec in self.refs.values()}
        for spec in self.progress.buildable():
            if spec.name in building or self.later.get(spec.name, 0.0) > self.context.now():
                continue
            if self._fits(spec) and self._mine(spec):
                self._submit(spec)

    @property
    def claims(self) -> list[Request]:
        """The resources that builders hold or wait for."""
        return [claim for spec in self.refs.values() for claim in self._claims(spec)]

    @property
    def claimed(self) -> Claims:
        """The same, by whether they hold them: helpers of a builder are not known to wait."""
        found = Claims()
        for spec in self.refs.values():
            first, *helpers = self._claims(spec)
            main = Claims((first,)) if spec.name in self.began else Claims((), (first,))
            found += main + Claims(tuple(helpers))
        return found

    def to_json(self) -> DriverState:
        """Their part of the heartbeat."""
        at_work = (DataSetAtWork(name=s.name, word=self.status.get(s.name, "")) for s in self.refs.values())
        return {"building": list(at_work)}

    def abandon(self) -> None:
        """The sweep ends: release the leases of unfinished data sets."""
        for spec in self.refs.values():
            self._release(spec, done=False)
        self.refs.clear()

    def _ended(self, ref: ray.ObjectRef, spec: DataSpec) -> None:
        try:
            ray.get(ref)
        except Exception as error:  # noqa: BLE001  (whatever a builder raises is this data set's failure)
            self._release(spec, done=False)
            self._failed(spec, self._fault(spec, error))
        else:
            self._release(spec, done=True)
            self.trained |= {spec.shares} if spec.shares else set()
            self.progress.data_built(spec)

    def _failed(self, spec: DataSpec, found: Fault) -> None:
        """Retry a failed build, or give it up."""
        if (retry := self.retries.after(spec.name, found)) is None:
            self.progress.data_failed(spec, found)
            return
        self.later[spec.name] = self.context.now() + retry.wait
        self.context.observer.data_retried(spec, f"{retry}: {found.error}")

    def _mine(self, spec: DataSpec) -> bool:
        """Take the lease of a data set; False if another driver builds it, or has built it."""
        try:
            if self.context.leases.take(f"data-{spec.key}"):
                if not self.context.store.has(spec):
                    return True
                self._release(spec, done=True)
            if self.context.store.has(spec):
                self.progress.data_built(spec)
                return False
        except OSError as error:  # storage is full or unreachable, perhaps only for a while
            self.progress.unanswered(error)
        self.later[spec.name] = self.context.now() + POLL_SECONDS
        return False

    def _release(self, spec: DataSpec, *, done: bool) -> None:
        with suppress(OSError):
            self.context.leases.release(f"data-{spec.key}", done=done)

    def _fits(self, spec: DataSpec) -> bool:
        """Whether a builder may start. Builders take all processors and GPUs, but only half of them while
        trials could use them, so that neither waits for the other to finish. One builder may always start."""
        if not self.refs:
            return True
        if self._waits(spec):
            return False
        if len(self.claims) + self._workers(spec) > self.pressure.most:
            return False
        part = 1.0 if self.progress.idle else 0.5
        mine, theirs = self._claims(spec), self.claims
        gpus = sum(claim.gpus for claim in (*theirs, *mine))
        if mine[0].gpus and any(claim.gpus for claim in theirs) and gpus > part * self.cluster.total("GPU"):
            return False
        return sum(claim.cpus for claim in (*theirs, *mine)) <= part * self.cluster.total("CPU")

    def _waits(self, spec: DataSpec) -> bool:
        """Whether a builder at work trains the network that this data set needs too."""
        at_work = {other.shares for other in self.refs.values()} - {None}
        return spec.shares in at_work - self.trained

    def _workers(self, spec: DataSpec) -> int:
        """The number of tasks that build a data set together; only some crafting is shared, and only while
        there is enough memory."""
        workers = self.context.run.workers_per_data if spec.crafts and spec.poison[0].splits else 1
        return int(min(workers, self.pressure.most))

    def _claims(self, spec: DataSpec) -> list[Request]:
        """The resources of the tasks that build a data set; with GPUs there are at most as many tasks as
        GPUs."""
        gpus = self._gpus(spec)
        one = Request(self.context.run.cpus_per_data, min(1, gpus))
        return [one] * (gpus or self._workers(spec))

    def _gpus(self, spec: DataSpec) -> int:
        """How many of the tasks get a GPU each."""
        return with_gpu(self._workers(spec), self.cluster, wanted=spec.wants_gpu)

    def _submit(self, spec: DataSpec) -> None:
        if self.mail is None:  # an empty queue is false
            self.mail = Queue(actor_options={"num_cpus": 0})
        cpus, workers = self.context.run.cpus_per_data, self._workers(spec)
        gpus = self._gpus(spec)
        opener = partial(open_driven, self.context.store.where, self.driver)
        ref = start_build(spec, opener, self.mail, cpus=cpus, gpus=gpus, workers=workers)
        self.refs[ref] = spec
        self.began.discard(spec.name)

    def _read_mail(self) -> None:
        if self.mail is None:
            return
        try:
            news = self.mail.get_nowait_batch(self.mail.qsize())
        except ActorUnavailableError:  # it does not answer just now
            return
        except RayError:  # the queue's actor died with its node: builders that have started cannot say so
            self.mail = None
            self.began.update(spec.name for spec in self.refs.values())
            return
        for name, row in news:
            spec = self.progress.data_set(name)
            if row:
                self._count_report(name)
                self.status[name] = ", ".join(f"{key} {value}" for key, value in row.items())
                self.context.observer.data_progress(spec, row)
            else:
                self.rows[name] = 0
                self.began.add(name)
                self.context.observer.data_started(spec)

    def _count_report(self, name: str) -> None:
        """A builder reported progress; one that resumed from a checkpoint repeats earlier reports."""
        self.rows[name] += 1
        if self.rows[name] > self.most[name]:
            self.most[name] = self.rows[name]
            self.retries.progressed(name)

    def _fault(self, spec: DataSpec, error: BaseException) -> Fault:
        """The fault behind a failed build: Ray wraps the exception of the builder or of one that helps it."""
        found = cause(error)
        if isinstance(found, OutOfMemoryError):
            at_once = len(self._claims(spec)) + len(self.claims) + len(self.progress.running)
            fewer = self.pressure.note(spec.name, at_once)
            return killed_for_memory(self.pressure.most if fewer else None)
        if isinstance(found, RayError) and not isinstance(found, RayTaskError):
            return Fault("machine", f"{type(found).__name__}: {found}".split("\n")[0])
        return fault(found)
