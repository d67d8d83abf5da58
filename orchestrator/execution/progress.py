"""What a driver knows while a sweep runs: what is built, what can start, what has ended. Knows no ray."""

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
from trainers.loop import Metrics

LOOK_SECONDS = 2.0  # between two looks at what another driver does


@dataclass
class Attempt:
    """A trial given out to be run, with so much of a GPU."""

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
    """The state of one run of a plan. All calls come from one thread; the observer hears of every change.

    A trial is in one place at a time: blocked by data sets that are not built, ready, paused after a fault of
    a machine, elsewhere (another driver holds its lease), live, or settled.
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
        """`seconds` is how long each missing trial takes, by key: long ones are given out first, and the data
        sets that most work waits for are built first (default: all alike, so the plan's order holds)."""
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
        self.broken: dict[str, Fault] = {}  # data sets that cannot be built, and why
        self.blocked: dict[str, Task] = {}
        self.unmeasured: dict[str, Task] = {}  # their share of a GPU is not known yet
        self.ready = Ready()
        self.paused: list[tuple[float, str]] = []
        self.elsewhere: dict[str, float] = {}  # key -> when to look again
        self.live: dict[int, Attempt] = {}
        self.done = 0
        self.failed: list[str] = []
        self.stopped: list[str] = []
        self.faults: Counter[str] = Counter()  # by kind
        self.died: Counter[str] = Counter()  # faults of machines since it got any further, by key
        self.furthest: dict[str, float] = {}  # the last epoch that was ever heard of, by key
        self.tries: Counter[str] = Counter()  # faults of the trial itself, by key
        self.leased: set[str] = set()
        self.mistake: str | None = None  # a fault of the sweep's author
        self.ahead = 2  # how many trials a search that goes by results should have on the way
        self.search_failed = False  # the search could not be asked
        self.outage = Outage(now)
        self._numbers = itertools.count(1)

    def begin(self, shares: Shares) -> None:
        """Take up the first trials; `shares` says how much of a GPU each gets."""
        self.shares = shares
        self.fill()

    # -- data sets

    def buildable(self) -> list[DataSpec]:
        """Data sets that trials wait for, or their parents, and whose own parents are there; those that most
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
        """A data set cannot be built, nor what is made from it; trials that need any of these have failed. If
        these are all of the sweep, by its author's fault, the sweep has."""
        self.unbuilt.pop(spec.name, None)
        if fault.kind == "config" and all(spec.name in self._reads(task) for task in self.plan.tasks):
            self.mistake = f"{spec.name}: {fault.error}"
            return
        self.broken[spec.name] = fault
        self.observer.data_failed(spec, fault.error)
        for child in [child for child in self.unbuilt if spec.name in self.parents[child]]:
            if child in self.unbuilt:  # it may have gone already, with a parent of its own that went
                self.data_failed(self.unbuilt[child], fault)
        for task in [task for task in self.blocked.values() if spec.name in task.needs]:
            del self.blocked[task.key]
            self._give_up(task, fault)

    def _reads(self, task: Task) -> set[str]:
        """The data sets that a trial needs, and what those are made from."""
        needed, found = list(task.needs), set[str]()
        while needed:
            found.add(name := needed.pop())
            needed += self.parents.get(name, ())
        return found

    # -- trials that can start

    def fill(self) -> None:
        """Take up the trials that the search wants to see next."""
        try:
            asked = self.search.ask(self.ahead)
        except OSError as error:  # the storage is full, or away: it may come back
            self.unanswered(error)
            self.search_failed = True
            return
        self.search_failed = False
        for task in asked:
            self._place(task)

    def offer(self, share: float, barred: Collection[str] = ()) -> Attempt | None:
        """Give out the first trial that can start with that share of a GPU and is not `barred`, if there is
        one.

        Its lease is taken here. What turns out to be done, or to be done elsewhere, is put in its place.
        """
        while self.free_places and (key := self.ready.take(share, barred)) is not None:
            task = self.tasks[key]
            if self.shares.of(task) != share:  # its like ran out of memory meanwhile
                self._place(task)
            elif self._mine(task):
                return self._start(task, share)
        return None

    def wants(self) -> Counter[float]:
        """How many trials could start now, by the share of a GPU that they want."""
        return Counter({s: int(min(self.ready.count(s), self.free_places)) for s in self.ready.shares})

    def waiting(self, share: float) -> Iterator[float]:
        """How long the trials take, in seconds, that could start now with that share, in their order."""
        return (
            (self.seconds.get(key, 1.0) for key in self.ready.keys(share)) if self.free_places else iter(())
        )

    @property
    def free_places(self) -> float:
        """How many more trials may run at a time."""
        return max(0, (self.plan.sweep.run.max_concurrent or math.inf) - len(self.live))

    def poll(self) -> None:
        """Have what has waited long enough tried again; call this now and then."""
        if self.search_failed:
            self.fill()
        if self.paused and self.paused[0][0] <= self.now():
            self._resume()
        for key in [key for key, when in self.elsewhere.items() if when <= self.now()]:
            del self.elsewhere[key]
            self._look_elsewhere(self.tasks[key])
        for task in list(self.unmeasured.values()):
            if self.shares.of(task) is not None:
                del self.unmeasured[task.key]
                self._place(task)

    def _resume(self) -> None:
        """Place what has paused long enough. If it lacked memory, those like it want more as well."""
        while self.paused and self.paused[0][0] <= self.now():
            self._place(self.tasks[heapq.heappop(self.paused)[1]])
        self.ready.sort_out(lambda key: self.shares.of(self.tasks[key]) or 0.0)

    # -- trials that run

    def reported(self, number: int, rows: list[Metrics]) -> bool:
        """A trial tells of its epochs. Whether it is to end here, because a scheduler gave it up."""
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
        """A trial has its result; the ledger has it too, if its worker knows it by the same key."""
        if (attempt := self.live.get(number)) is None:
            return
        if record.get("key") != attempt.task.key:
            other = two_versions("trial", attempt.task.key, record.get("key"), "another machine")
            self.attempt_failed(number, Fault("config", f"InputError: {other}"))
            return
        del self.live[number]
        self._settle(attempt.task, record)

    def attempt_pruned(self, number: int) -> None:
        """A trial ended where the scheduler told it to."""
        if (attempt := self.live.pop(number, None)) is None:
            return
        task = attempt.task
        told = {"sweep": self.plan.sweep.name, **self.pruner.verdict(task, attempt.row)}
        try:
            self.ledger.stop(task.key, told)
        except OSError as error:  # it cannot be said: it goes on from its checkpoint, and is judged again
            self._again(task, Fault("machine", str(error)), "after a pause", LOOK_SECONDS)
            return
        self._stop(task, told)

    def attempt_failed(self, number: int, fault: Fault) -> None:
        """An attempt failed: the trial is tried again, or given up, or the whole sweep is."""
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
        """The sweep ends: what ran is free for others, and no lease stays that nobody needs."""
        for attempt in self.live.values():
            self._release(attempt.task, done=False)
        self.live.clear()
        with suppress(OSError):
            self.leases.tidy(self._over)

    def _over(self, lease: str) -> bool:
        """Whether the work of a lease of this sweep is done."""
        if lease in self.tasks:
            return self.ledger.looked(lease, self.tasks[lease].look_keys) is not None
        key = lease.removeprefix("data-")
        return any(spec.key == key and self.store.has(spec) for spec in self.data.values())

    @property
    def finished(self) -> bool:
        """Whether nothing is left that could happen."""
        places = (self.blocked, self.unmeasured, self.ready, self.paused, self.elsewhere, self.live)
        return not any(places) and not self.search_failed

    def unanswered(self, error: OSError) -> None:
        """The store did not do what this driver needs of it, who will ask again."""
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

    # -- how a trial goes from place to place

    def _place(self, task: Task) -> None:
        """Put a trial where it belongs now."""
        if bad := next((name for name in task.needs if name in self.broken), None):
            self._give_up(task, self.broken[bad])
        elif not self.built.issuperset(task.needs):
            self.blocked[task.key] = task
        elif (share := self.shares.of(task)) is None:
            self.unmeasured[task.key] = task
        else:
            self.ready.add(task.key, self.rank.get(task.key, len(self.rank)), share)

    def _look_elsewhere(self, task: Task) -> None:
        """See what has become of a trial that another driver had: no worker need wait for that."""
        try:
            if (record := self.ledger.looked(task.key, task.look_keys)) is not None:
                return self._settle(task, record)
            if self.leases.free(task.key):
                return self._place(task)
        except OSError as error:  # the storage is away: it may come back
            self.unanswered(error)
        self.elsewhere[task.key] = self.now() + LOOK_SECONDS

    def _mine(self, task: Task) -> bool:
        """Take the lease of a trial; False if another driver has it, or had it and has ended the trial."""
        try:
            if not self.leases.take(task.key):
                self.elsewhere[task.key] = self.now() + LOOK_SECONDS
                return False
            self.leased.add(task.key)
            if (record := self.ledger.looked(task.key, task.look_keys)) is not None:
                self.ledger.tidy(task.key)  # its worker may have been killed before it could
                self._settle(task, record)
                return False
            if (
                self.plan.sweep.run.scheduler != "none"
                and (told := self.ledger.stopped(task.key)) is not None
            ):
                self._stop(task, told)
                return False
            failure = self.ledger.failure(task.key)
            if failure is not None and failure.get("kind") == "trial":
                self._give_up(task, Fault("trial", failure["error"]), write=False)
                return False
        except OSError as error:  # the storage is full, or away: it may come back
            self.unanswered(error)
            heapq.heappush(self.paused, (self.now() + LOOK_SECONDS, task.key))
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

    def _stop(self, task: Task, told: Record) -> None:
        self.stopped.append(task.key)
        self._release(task, done=True)
        self.pruner.learn(task, told)
        self.observer.trial_stopped(task, told)
        self._tell(task, None, told)

    def _settle(self, task: Task, record: Record) -> None:
        self.done += 1
        self._release(task, done=True)
        self.pruner.learn(task, record)
        self.observer.trial_done(task, record)
        self._tell(task, record["metrics"].get(self.plan.sweep.report.metric))

    def _give_up(self, task: Task, fault: Fault, *, write: bool = True) -> None:
        """A trial failed for good; `write` says whether the ledger must be told."""
        if fault.kind == "memory":  # it was the largest share there is: nobody else need try
            fault = replace(fault, kind="trial")
        attempts = self.tries[task.key] + self.died[task.key]
        if write:
            with suppress(OSError):  # a full disk: then the same command tries it again
                told = {**fault.to_json(), "attempts": max(1, attempts), "needs": list(task.needs)}
                self.ledger.fail(task.key, told)
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
            with suppress(OSError):  # it stays until this driver has ended, and is then free for any
                self.leases.release(task.key, done=done)
