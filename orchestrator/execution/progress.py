"""The state of a running sweep in its driver: what is built, what can start, what has ended. Imports no
ray."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from orchestrator.estimates.order import order_data, order_trials, waiting_seconds
from orchestrator.estimates.shares import Shares
from orchestrator.execution.faults import Fault, pause, two_versions
from orchestrator.execution.pruning import Pruner
from orchestrator.execution.ready_queue import Ready
from orchestrator.execution.search import Search
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.outage import Outage
from orchestrator.storage.records import DriverState, Record, RunningTrial
from poisons import DataSpec, Store
from trainers.families import Metrics

POLL_SECONDS = 2.0  # between two checks of a trial that another driver runs


@dataclass
class Attempt:
    """A trial that a worker was given to run, with a share of a GPU."""

    number: int
    task: Task
    share: float
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    row: Metrics = field(default_factory=dict)

    def to_json(self) -> RunningTrial:
        """What a heartbeat says of it."""
        return {
            "key": self.task.key,
            "name": self.task.point.name,
            "since": self.since,
            "epochs": self.task.trial.train.epochs,
            "epoch": self.row.get("epoch"),
            "train/acc": self.row.get("train/acc"),
            "test/clean_acc": self.row.get("test/clean_acc"),
        }


class Progress:
    """The state of one run of a plan. All calls come from one thread; the observer is notified of each
    change.

    A trial is in exactly one state: blocked by data sets that are not built, unmeasured (its GPU share is not
    known yet), ready, paused after a machine fault, elsewhere (another driver holds its lease), live, or
    settled.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        observer: Observer,
        leases: Leases,
        *,
        seconds: Mapping[str, float] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` maps the key of each missing trial to its expected duration: long trials start first, and
        the data sets that most work waits for are built first. By default all durations are equal, which
        keeps the order of the plan."""
        self.plan, self.store, self.observer, self.leases, self.now = plan, store, observer, leases, now
        self.shares = Shares.fixed(0.0)
        self.ledger = Ledger(store.where)
        self.search, self.pruner = Search.of(plan, self.ledger), Pruner.of(plan, self.ledger)
        self.tasks = {task.key: task for task in plan.tasks}
        self.seconds = seconds or dict.fromkeys((task.key for task in plan.missing), 1.0)
        self.rank = {task.key: i for i, task in enumerate(order_trials(plan.missing, self.seconds))}
        waiting = waiting_seconds(plan.data, plan.missing, self.seconds)
        self.data = {spec.name: spec for spec in order_data(plan.data, waiting)}
        self.parents = {name: {parent.name for parent in spec.parents} for name, spec in self.data.items()}
        self.unbuilt = {name: spec for name, spec in self.data.items() if name not in plan.ready}
        self.built = set(plan.ready)
        self.broken: dict[str, Fault] = {}  # data sets that cannot be built, and the reason
        self.blocked: dict[str, Task] = {}
        self.unmeasured: dict[str, Task] = {}  # their share of a GPU is not known yet
        self.ready = Ready()
        self.paused: list[tuple[float, str]] = []
        self.elsewhere: dict[str, float] = {}  # key -> when to check again
        self.live: dict[int, Attempt] = {}
        self.done = 0
        self.failed: list[str] = []
        self.stopped: list[str] = []
        self.faults: Counter[str] = Counter()  # by kind
        self.died: Counter[str] = Counter()  # machine faults since the trial last made progress, by key
        self.furthest: dict[str, float] = {}  # the last epoch that was ever reported, by key
        self.tries: Counter[str] = Counter()  # faults of the trial itself, by key
        self.leased: set[str] = set()
        self.mistake: str | None = None  # an error in the sweep itself, which ends it
        self.ahead = 2  # how many trials an adaptive search keeps in flight
        self.search_failed = False  # storage did not answer when the search was asked
        self.outage = Outage(now)
        self._numbers = itertools.count(1)

    def begin(self, shares: Shares) -> None:
        """Queue the first trials. `shares` gives each its share of a GPU."""
        self.shares = shares
        self.fill()

    # -- data sets

    def buildable(self) -> list[DataSpec]:
        """Data sets that trials wait for, and their ancestors, whose own parents are built. Those that most
        work waits for come first."""
        needed = {name for task in self.blocked.values() for name in task.needs}
        for spec in reversed(self.plan.data):  # children before parents
            if spec.name in needed:
                needed |= self.parents[spec.name]
        can = (spec for name, spec in self.unbuilt.items() if self.parents[name] <= self.built)
        return [spec for spec in can if spec.name in needed]

    def data_built(self, spec: DataSpec) -> None:
        self.unbuilt.pop(spec.name, None)
        self.built.add(spec.name)
        self.observer.data_built(spec)
        for task in [task for task in self.blocked.values() if spec.name in task.needs]:
            del self.blocked[task.key]
            self._place(task)

    def data_failed(self, spec: DataSpec, fault: Fault) -> None:
        """A data set cannot be built, and so nothing that is made from it; trials that need any of these
        fail. If it is a `config` fault and every trial of the sweep needs the data set, the sweep fails."""
        self.unbuilt.pop(spec.name, None)
        if fault.kind == "config" and all(spec.name in self._reads(task) for task in self.plan.tasks):
            self.mistake = f"{spec.name}: {fault.error}"
            return
        self.broken[spec.name] = fault
        self.observer.data_failed(spec, fault.error)
        for child in [child for child in self.unbuilt if spec.name in self.parents[child]]:
            if child in self.unbuilt:  # it may have been removed with another of its parents
                self.data_failed(self.unbuilt[child], fault)
        for task in [task for task in self.blocked.values() if spec.name in task.needs]:
            del self.blocked[task.key]
            self._give_up(task, fault)

    def _reads(self, task: Task) -> set[str]:
        """The data sets that a trial needs, and their ancestors."""
        needed, found = list(task.needs), set[str]()
        while needed:
            found.add(name := needed.pop())
            needed += self.parents.get(name, ())
        return found

    # -- trials that can start

    def fill(self) -> None:
        """Queue the trials that the search proposes next."""
        try:
            asked = self.search.ask(self.ahead)
        except OSError as error:  # storage is full or unreachable, perhaps only for a while
            self.unanswered(error)
            self.search_failed = True
            return
        self.search_failed = False
        for task in asked:
            self._place(task)

    def offer(self, share: float, barred: Collection[str] = ()) -> Attempt | None:
        """The first trial that can start with that share of a GPU and is not `barred`, or None.

        Its lease is taken here. A trial that turns out to be done, or to run elsewhere, changes its state.
        """
        while self.free_places and (key := self.ready.take(share, barred)) is not None:
            task = self.tasks[key]
            if self.shares.of(task) != share:  # a trial of the same shape ran out of memory meanwhile
                self._place(task)
            elif self._mine(task):
                return self._start(task, share)
        return None

    def wants(self) -> Counter[float]:
        """The number of trials that could start now, by the share of a GPU that they need."""
        return Counter({s: int(min(self.ready.count(s), self.free_places)) for s in self.ready.shares})

    def waiting(self, share: float) -> Iterator[float]:
        """Expected durations (seconds) of the trials that could start now with that share, in their order."""
        return (
            (self.seconds.get(key, 1.0) for key in self.ready.keys(share)) if self.free_places else iter(())
        )

    @property
    def free_places(self) -> float:
        """How many more trials may run at the same time."""
        return max(0, (self.plan.sweep.run.max_concurrent or math.inf) - len(self.live))

    def poll(self) -> None:
        """Retry what has waited long enough. To be called every few seconds."""
        if self.search_failed:
            self.fill()
        if self.paused and self.paused[0][0] <= self.now():
            self._resume()
        for key in [key for key, when in self.elsewhere.items() if when <= self.now()]:
            del self.elsewhere[key]
            self._poll_elsewhere(self.tasks[key])
        for task in list(self.unmeasured.values()):
            if self.shares.of(task) is not None:
                del self.unmeasured[task.key]
                self._place(task)

    def _resume(self) -> None:
        """Requeue trials whose pause is over. If one lacked memory, trials of the same shape need more
        too."""
        while self.paused and self.paused[0][0] <= self.now():
            self._place(self.tasks[heapq.heappop(self.paused)[1]])
        self.ready.sort_out(lambda key: self.shares.of(self.tasks[key]) or 0.0)

    # -- trials that run

    def reported(self, number: int, rows: list[Metrics]) -> bool:
        """A trial reported epochs. Returns whether the scheduler prunes it now."""
        attempt = self.live.get(number)
        if attempt is None or not rows:
            return False
        attempt.row, key = rows[-1], attempt.task.key
        if rows[-1]["epoch"] > self.furthest.get(key, 0.0):
            self.furthest[key] = rows[-1]["epoch"]
            self.died.pop(key, None)
        self.observer.trial_progress(attempt.task, rows)
        return any([self.pruner.report(attempt.task, int(row["epoch"]), row) for row in rows])

    def ended(self, number: int, record: Record) -> None:
        """A trial has its result, which the ledger also has, unless the worker computed another key for
        it."""
        if (attempt := self.live.get(number)) is None:
            return
        if record.get("key") != attempt.task.key:
            other = two_versions("trial", attempt.task.key, record.get("key"), "another machine")
            self.attempt_failed(number, Fault("config", f"InputError: {other}"))
            return
        del self.live[number]
        self._settle(attempt.task, record)

    def attempt_pruned(self, number: int) -> None:
        """A trial ended because the scheduler pruned it."""
        if (attempt := self.live.pop(number, None)) is None:
            return
        task = attempt.task
        record = {"sweep": self.plan.sweep.name, **self.pruner.verdict(task, attempt.row)}
        try:
            self.ledger.stop(task.key, record)
        except OSError as error:  # not recorded: it resumes from its checkpoint, and is judged again
            self._again(task, Fault("machine", str(error)), "after a pause", POLL_SECONDS)
            return
        self._stop(task, record)

    def attempt_failed(self, number: int, fault: Fault) -> None:
        """An attempt failed: retry the trial, give it up, or stop the sweep."""
        if (attempt := self.live.pop(number, None)) is None:
            return
        task, run = attempt.task, self.plan.sweep.run
        self.faults[fault.kind] += 1
        if fault.kind == "config":
            self.mistake = f"{task.point.name}: {fault.error}"
            self._give_up(task, fault)
        elif fault.kind == "machine":
            self.died[task.key] += 1
            wait = pause(self.died[task.key])
            again = self.died[task.key] <= run.machine_retries
            self._again(task, fault, f"in {wait:.0f} s", wait) if again else self._give_up(task, fault)
        elif fault.kind == "memory" and self.shares.grow(task, attempt.share):
            self._again(task, fault, f"with {self.shares.of(task):g} of a GPU", 0.0)
        else:
            self.tries[task.key] += 1
            again = self.tries[task.key] <= run.retries
            self._again(task, fault, "once more", 0.0) if again else self._give_up(task, fault)

    def abandon(self) -> None:
        """The sweep ends: release the leases of running trials, and remove those of finished work."""
        for attempt in self.live.values():
            self._release(attempt.task, done=False)
        self.live.clear()
        with suppress(OSError):
            self.leases.tidy(self._over)

    def _over(self, lease: str) -> bool:
        """Whether the work that a lease of this sweep stands for is done."""
        if lease in self.tasks:
            return self.ledger.complete(lease, self.tasks[lease].probe_keys) is not None
        key = lease.removeprefix("data-")
        return any(spec.key == key and self.store.has(spec) for spec in self.data.values())

    @property
    def finished(self) -> bool:
        """Whether no trial is in any state but settled."""
        places = (self.blocked, self.unmeasured, self.ready, self.paused, self.elsewhere, self.live)
        return not any(places) and not self.search_failed

    def unanswered(self, error: OSError) -> None:
        """Storage failed at something that this driver will try again."""
        if self.outage.begins(error):
            self.observer.store_silent(str(error))

    def to_json(self) -> DriverState:
        """What a heartbeat says of the sweep."""
        waiting = (self.blocked, self.unmeasured, self.ready, self.paused)
        return {
            "total": len(self.plan.tasks),
            "done": self.plan.done + self.done,
            "failed": len(self.failed),
            "stopped": len(self.stopped),
            "elsewhere": len(self.elsewhere),
            "waiting": sum(len(place) for place in waiting),
            "running": [attempt.to_json() for attempt in self.live.values()],
            "faults": dict(self.faults),
            "silent": self.outage.word,
        }

    # -- how a trial changes its state

    def _place(self, task: Task) -> None:
        """Give a trial the state that it belongs in now."""
        if bad := next((name for name in task.needs if name in self.broken), None):
            self._give_up(task, self.broken[bad])
        elif not self.built.issuperset(task.needs):
            self.blocked[task.key] = task
        elif (share := self.shares.of(task)) is None:
            self.unmeasured[task.key] = task
        else:
            self.ready.add(task.key, self.rank.get(task.key, len(self.rank)), share)

    def _poll_elsewhere(self, task: Task) -> None:
        """Check a trial that another driver held. No worker waits for that."""
        try:
            if (record := self.ledger.complete(task.key, task.probe_keys)) is not None:
                return self._settle(task, record)
            if self.leases.free(task.key):
                return self._place(task)
        except OSError as error:  # the storage is away: it may come back
            self.unanswered(error)
        self.elsewhere[task.key] = self.now() + POLL_SECONDS

    def _mine(self, task: Task) -> bool:
        """Take the lease of a trial. False if another driver holds it, or has ended the trial."""
        try:
            if not self.leases.take(task.key):
                self.elsewhere[task.key] = self.now() + POLL_SECONDS
                return False
            self.leased.add(task.key)
            if (record := self.ledger.complete(task.key, task.probe_keys)) is not None:
                self.ledger.tidy(task.key)  # its worker may have been killed before it could
                self._settle(task, record)
                return False
            if (
                self.plan.sweep.run.scheduler != "none"
                and (stop := self.ledger.stopped(task.key)) is not None
            ):
                self._stop(task, stop)
                return False
            failure = self.ledger.failure(task.key)
            if failure is not None and failure.get("kind") == "trial":
                self._give_up(task, Fault("trial", failure["error"]), write=False)
                return False
        except OSError as error:  # storage is full or unreachable, perhaps only for a while
            self.unanswered(error)
            heapq.heappush(self.paused, (self.now() + POLL_SECONDS, task.key))
            return False
        return True

    def _start(self, task: Task, share: float) -> Attempt:
        attempt = Attempt(next(self._numbers), task, share)
        self.live[attempt.number] = attempt
        self.observer.trial_started(task)
        return attempt

    def _again(self, task: Task, fault: Fault, how: str, wait: float) -> None:
        self.observer.trial_retried(task, f"{how}: {fault.error}")
        heapq.heappush(self.paused, (self.now() + wait, task.key))

    def _stop(self, task: Task, stop: Record) -> None:
        self.stopped.append(task.key)
        self._release(task, done=True)
        self.pruner.learn(task, stop)
        self.observer.trial_stopped(task, stop)
        self._tell(task, None, stop)

    def _settle(self, task: Task, record: Record) -> None:
        self.done += 1
        self._release(task, done=True)
        self.pruner.learn(task, record)
        self.observer.trial_done(task, record)
        self._tell(task, record["metrics"].get(self.plan.sweep.report.metric))

    def _give_up(self, task: Task, fault: Fault, *, write: bool = True) -> None:
        """A trial failed and is not retried; `write` says whether to record that in the ledger."""
        if fault.kind == "memory":  # not even a whole GPU was enough: no other driver need try
            fault = replace(fault, kind="trial")
        attempts = self.tries[task.key] + self.died[task.key]
        if write:
            with suppress(OSError):  # a full disk: the next run of the command tries it again
                record = {**fault.to_json(), "attempts": max(1, attempts), "needs": list(task.needs)}
                self.ledger.fail(task.key, record)
        self.failed.append(task.key)
        self._release(task, done=False)
        self.observer.trial_failed(task, fault.error)
        self._tell(task, None)

    def _tell(self, task: Task, value: float | None, stop: Record | None = None) -> None:
        self.search.tell(task, value, stop)
        self.fill()

    def _release(self, task: Task, *, done: bool) -> None:
        if task.key in self.leased:
            self.leased.discard(task.key)
            with suppress(OSError):  # it stays until this driver ends, and then any may take it
                self.leases.release(task.key, done=done)
