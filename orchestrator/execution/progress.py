"""The state of a running sweep in its driver: what is built, what can start, what has ended. Imports no
ray."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from orchestrator.estimates.order import order_data, order_trials, waiting_seconds
from orchestrator.estimates.shares import Shares
from orchestrator.execution.context import SweepContext
from orchestrator.execution.faults import Fault, two_versions
from orchestrator.execution.pace import Pace
from orchestrator.execution.pruning import Pruner
from orchestrator.execution.ready_queue import Ready
from orchestrator.execution.retries import Retries
from orchestrator.execution.search import Search
from orchestrator.execution.trial_states import SETTLED, WAITING, State, TrialStates
from orchestrator.planning.plan import Task
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.outage import Outage
from orchestrator.storage.records import DriverState, Failure, Result, RunningTrial, Stopped
from orchestrator.storage.stores import storage_of
from poisons import DataSpec
from trainers.families import Metrics

POLL_SECONDS = 2.0  # between two checks of a trial that another driver runs


@dataclass
class Attempt:
    """A trial that was suggested to Tune, with a share of a GPU; `since` when a worker runs it."""

    number: int
    task: Task
    share: float
    since: str = ""
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
    """The state of one run of a plan: every trial in one `State`, every data set built, unbuilt or broken.
    All calls come from one thread; the observer is notified of each change."""

    def __init__(self, context: SweepContext, pace: Pace | None = None) -> None:
        """`pace` has the expected duration of each missing trial: long trials start first, and the data sets
        that most work waits for are built first. By default all durations are equal, which keeps the order of
        the plan."""
        self._context, plan = context, context.plan
        self._shares = Shares.fixed(0.0)
        self._ledger = Ledger(storage_of(context.store))
        self._search, self._pruner = Search.of(plan, self._ledger), Pruner.of(plan, self._ledger)
        self._tasks = {task.key: task for task in plan.tasks}
        self.pace = pace or Pace({}, {})
        seconds = {task.key: self.pace.expected(task.key) for task in plan.missing}
        self._rank = {task.key: i for i, task in enumerate(order_trials(plan.missing, seconds))}
        waiting = waiting_seconds(plan.data, plan.missing, seconds)
        self._data = {spec.name: spec for spec in order_data(plan.data, waiting)}
        self._parents = {name: {parent.name for parent in spec.parents} for name, spec in self._data.items()}
        self._unbuilt = {name: spec for name, spec in self._data.items() if name not in plan.ready}
        self._built = set(plan.ready)
        self._broken: dict[str, Fault] = {}  # data sets that cannot be built, and the reason
        self._states = TrialStates()
        self._ready = Ready()  # the order of the ready trials
        self._wake: dict[str, float] = {}  # when a paused trial, or one that runs elsewhere, is checked again
        self._live: dict[int, Attempt] = {}  # attempts at suggested and running trials, by number
        self._faults: Counter[str] = Counter()  # by kind
        self._retries = Retries(context.run)
        self._furthest: dict[str, float] = {}  # the last epoch reported by any attempt, by key
        self._leased: set[str] = set()
        self._mistake: str | None = None
        self._ahead = 2  # how many trials an adaptive search keeps in flight
        self._search_failed = False  # storage did not answer when the search was queried
        self._outage = Outage(context.now)
        self._numbers = itertools.count(1)

    def begin(self, shares: Shares) -> None:
        """Queue the first trials. `shares` gives each its share of a GPU."""
        self._shares = shares
        self.fill()

    # -- data sets

    def buildable(self) -> list[DataSpec]:
        """Data sets that trials wait for, and their ancestors, whose own parents are built. Those that most
        work waits for come first."""
        needed = {name for task in self._in(State.BLOCKED) for name in task.needs}
        for spec in reversed(self._context.plan.data):  # children before parents
            if spec.name in needed:
                needed |= self._parents[spec.name]
        can = (spec for name, spec in self._unbuilt.items() if self._parents[name] <= self._built)
        return [spec for spec in can if spec.name in needed]

    def data_built(self, spec: DataSpec) -> None:
        self._unbuilt.pop(spec.name, None)
        self._built.add(spec.name)
        self._context.observer.data_built(spec)
        for task in self._in(State.BLOCKED):
            if spec.name in task.needs:
                self._place(task)

    def data_failed(self, spec: DataSpec, fault: Fault) -> None:
        """A data set cannot be built, and so nothing that is made from it; trials that need any of these
        fail. If it is a `config` fault and every trial of the sweep needs the data set, the sweep fails."""
        self._unbuilt.pop(spec.name, None)
        if fault.kind == "config" and all(
            spec.name in self._reads(task) for task in self._context.plan.tasks
        ):
            self._mistake = f"{spec.name}: {fault.error}"
            return
        self._broken[spec.name] = fault
        self._context.observer.data_failed(spec, fault.error)
        for child in [child for child in self._unbuilt if spec.name in self._parents[child]]:
            if child in self._unbuilt:  # it may have been removed with another of its parents
                self.data_failed(self._unbuilt[child], fault)
        for task in self._in(State.BLOCKED):
            if spec.name in task.needs:
                self._give_up(task, fault)

    def _reads(self, task: Task) -> set[str]:
        """The data sets that a trial needs, and their ancestors."""
        needed, found = list(task.needs), set[str]()
        while needed:
            found.add(name := needed.pop())
            needed += self._parents.get(name, ())
        return found

    # -- trials that can start

    def fill(self) -> None:
        """Queue the trials that the search proposes next."""
        try:
            asked = self._search.ask(self._ahead)
        except OSError as error:  # storage is full or unreachable, perhaps only for a while
            self.unanswered(error)
            self._search_failed = True
            return
        self._search_failed = False
        for task in asked:
            self._place(task)

    def offer(self, share: float, barred: Collection[str] = ()) -> Attempt | None:
        """The first trial that can start with that share of a GPU and is not `barred`, or None.

        Its lease is taken here. A trial that turns out to be done, or to run elsewhere, changes its state.
        """
        while (key := self._ready.take(share, barred)) is not None:
            task = self._tasks[key]
            if self._shares.of(task) != share:  # a trial of the same shape ran out of memory meanwhile
                self._place(task)
            elif self._mine(task):
                return self._suggest(task, share)
        return None

    def waiting(self, share: float) -> Iterator[float]:
        """Expected durations (seconds) of the trials that could start now with that share, in their order."""
        return map(self.pace.expected, self._ready.keys(share))

    @property
    def ready_shares(self) -> list[float]:
        """The shares of a GPU that trials which could start need: the share of the longest first, and of
        equally long ones the larger."""
        shares = self._ready.shares
        return sorted(shares, key=lambda share: (next(self.waiting(share)), share), reverse=True)

    def poll(self) -> None:
        """Retry what has waited long enough. To be called every few seconds."""
        if self._search_failed:
            self.fill()
        if over := self._due(State.PAUSED):
            self._resume(over)
        for task in self._due(State.ELSEWHERE):
            self._poll_elsewhere(task)
        for task in self._in(State.UNMEASURED):
            if self._shares.of(task) is not None:
                self._place(task)

    def _due(self, state: State) -> list[Task]:
        """The trials in a state whose time to be checked has come, the longest due first."""
        due = [task for task in self._in(state) if self._wake[task.key] <= self._context.now()]
        return sorted(due, key=lambda task: self._wake[task.key])

    def _resume(self, tasks: Iterable[Task]) -> None:
        """Requeue trials whose pause is over. If one lacked memory, trials of the same shape need more
        too."""
        for task in tasks:
            self._place(task)
        self._ready.sort_out(lambda key: self._shares.of(self._tasks[key]) or 0.0)

    # -- trials that run

    def started(self, number: int) -> None:
        """A worker starts a trial."""
        if (attempt := self._live.get(number)) is not None and not attempt.since:
            attempt.since = datetime.now(UTC).isoformat(timespec="seconds")
            self._states.enter(attempt.task.key, State.RUNNING)
            self._context.observer.trial_started(attempt.task)

    def returned(self, number: int) -> None:
        """A trial was not started: it is ready again."""
        if (attempt := self._live.pop(number, None)) is not None:
            self._place(attempt.task)

    def reported(self, number: int, rows: list[Metrics]) -> bool:
        """A trial reported epochs. Returns whether the scheduler prunes it now."""
        attempt = self._live.get(number)
        if attempt is None or not rows:
            return False
        attempt.row, key = rows[-1], attempt.task.key
        if rows[-1]["epoch"] > self._furthest.get(key, 0.0):
            self._furthest[key] = rows[-1]["epoch"]
            self._retries.progressed(key)
        self._context.observer.trial_progress(attempt.task, rows)
        return any([self._pruner.report(attempt.task, int(row["epoch"]), row) for row in rows])

    def ended(self, number: int, record: Result) -> None:
        """A trial has its result, which the ledger also has, unless the worker computed another key for
        it."""
        if (attempt := self._live.get(number)) is None:
            return
        if record.get("key") != attempt.task.key:
            other = two_versions("trial", attempt.task.key, record.get("key"), "another machine")
            self.attempt_failed(number, Fault("config", f"InputError: {other}"))
            return
        del self._live[number]
        self._complete(attempt.task, record)

    def attempt_pruned(self, number: int) -> None:
        """A trial ended because the scheduler pruned it."""
        if (attempt := self._live.pop(number, None)) is None:
            return
        task = attempt.task
        record: Stopped = {
            **self._pruner.verdict(task, attempt.row),
            "sweep": self._context.plan.sweep.name,
        }
        try:
            self._ledger.stop(task.key, record)
        except OSError as error:  # not recorded: it resumes from its checkpoint, and is judged again
            self._again(task, Fault("machine", str(error)), "after a pause", POLL_SECONDS)
            return
        self._stop(task, record)

    def attempt_failed(self, number: int, fault: Fault) -> None:
        """An attempt failed: retry the trial, give it up, or stop the sweep."""
        if (attempt := self._live.pop(number, None)) is None:
            return
        task = attempt.task
        self._faults[fault.kind] += 1
        if fault.kind == "config":
            self._mistake = f"{task.point.name}: {fault.error}"
        if fault.kind == "memory" and self._shares.grow(task, attempt.share):
            self._again(task, fault, f"with {self._shares.of(task):g} of a GPU", 0.0)
        elif (retry := self._retries.after(task.key, fault)) is not None:
            self._again(task, fault, str(retry), retry.wait)
        else:
            self._give_up(task, fault)

    def abandon(self) -> None:
        """The sweep ends: release the leases of trials that have not ended, and remove those of finished
        work."""
        for attempt in self._live.values():
            self._release(attempt.task, done=False)
        self._live.clear()
        with suppress(OSError):
            self._context.leases.tidy(self._over)

    def _over(self, lease: str) -> bool:
        """Whether the work that a lease of this sweep stands for is done."""
        if lease in self._tasks:
            return self._ledger.complete(lease, self._tasks[lease].probe_keys) is not None
        key = lease.removeprefix("data-")
        return any(spec.key == key and self._context.store.has(spec) for spec in self._data.values())

    @property
    def finished(self) -> bool:
        """Whether every trial is settled, and the search proposes no more."""
        return self._states.all_in(SETTLED) and not self._search_failed

    @property
    def running(self) -> list[Attempt]:
        """The attempts that run."""
        return [attempt for attempt in self._live.values() if attempt.since]

    @property
    def idle(self) -> bool:
        """Whether no trial runs, and none could start."""
        return not self._states.count(State.READY, State.SUGGESTED, State.RUNNING)

    @property
    def unbuilt(self) -> list[DataSpec]:
        """The data sets that are not built, in the order in which they are."""
        return list(self._unbuilt.values())

    @property
    def mistake(self) -> str | None:
        """An error in the sweep itself, which ends it."""
        return self._mistake

    def trials(self, state: State) -> list[str]:
        """The keys of the trials in a state, in the order in which they entered it."""
        return self._states.keys(state)

    def data_set(self, name: str) -> DataSpec:
        """The data set of the plan with this name."""
        return self._data[name]

    def keep_ahead(self, count: int) -> None:
        """Have an adaptive search keep this many trials in flight."""
        self._ahead = count

    def unanswered(self, error: OSError) -> None:
        """Storage failed at something that this driver will try again."""
        if self._outage.begins(error):
            self._context.observer.store_silent(str(error))

    def to_json(self) -> DriverState:
        """What a heartbeat says of the sweep."""
        return {
            "total": len(self._context.plan.tasks),
            "done": self._context.plan.done + self._states.count(State.DONE),
            "failed": self._states.count(State.FAILED),
            "stopped": self._states.count(State.PRUNED),
            "elsewhere": self._states.count(State.ELSEWHERE),
            "waiting": self._states.count(*WAITING),
            "running": [attempt.to_json() for attempt in self.running],
            "faults": dict(self._faults),
            "silent": self._outage.message,
        }

    # -- how a trial changes its state

    def _in(self, state: State) -> list[Task]:
        return [self._tasks[key] for key in self._states.keys(state)]

    def _check_later(self, task: Task, state: State, wait: float) -> None:
        """Put a trial into a state that ends after `wait` seconds."""
        self._wake[task.key] = self._context.now() + wait
        self._states.enter(task.key, state)

    def _place(self, task: Task) -> None:
        """Give a trial the state that it belongs in now."""
        if bad := next((name for name in task.needs if name in self._broken), None):
            self._give_up(task, self._broken[bad])
        elif not self._built.issuperset(task.needs):
            self._states.enter(task.key, State.BLOCKED)
        elif (share := self._shares.of(task)) is None:
            self._states.enter(task.key, State.UNMEASURED)
        else:
            self._states.enter(task.key, State.READY)
            self._ready.add(task.key, self._rank.get(task.key, len(self._rank)), share)

    def _poll_elsewhere(self, task: Task) -> None:
        """Check a trial that another driver held. No worker waits for that."""
        try:
            if (record := self._ledger.complete(task.key, task.probe_keys)) is not None:
                return self._complete(task, record)
            if self._context.leases.free(task.key):
                return self._place(task)
        except OSError as error:  # storage is full or unreachable, perhaps only for a while
            self.unanswered(error)
        self._check_later(task, State.ELSEWHERE, POLL_SECONDS)

    def _mine(self, task: Task) -> bool:
        """Take the lease of a trial. False if another driver holds it, or has ended the trial."""
        try:
            if not self._context.leases.take(task.key):
                self._check_later(task, State.ELSEWHERE, POLL_SECONDS)
                return False
            self._leased.add(task.key)
            if (record := self._ledger.complete(task.key, task.probe_keys)) is not None:
                self._ledger.tidy(task.key)  # its worker may have been killed before it did this
                self._complete(task, record)
                return False
            if self._context.run.scheduler != "none" and (stop := self._ledger.stopped(task.key)) is not None:
                self._stop(task, stop)
                return False
            failure = self._ledger.failure(task.key)
            if failure is not None and failure.get("kind") == "trial":
                self._give_up(task, Fault("trial", failure["error"]), write=False)
                return False
        except OSError as error:  # storage is full or unreachable, perhaps only for a while
            self.unanswered(error)
            self._check_later(task, State.PAUSED, POLL_SECONDS)
            return False
        return True

    def _suggest(self, task: Task, share: float) -> Attempt:
        attempt = Attempt(next(self._numbers), task, share)
        self._live[attempt.number] = attempt
        self._states.enter(task.key, State.SUGGESTED)
        return attempt

    def _again(self, task: Task, fault: Fault, how: str, wait: float) -> None:
        self._context.observer.trial_retried(task, f"{how}: {fault.error}")
        self._check_later(task, State.PAUSED, wait)

    def _stop(self, task: Task, stop: Stopped) -> None:
        self._states.enter(task.key, State.PRUNED)
        self._release(task, done=True)
        self._pruner.learn(task, stop)
        self._context.observer.trial_stopped(task, stop)
        self._tell(task, None, stop)

    def _complete(self, task: Task, record: Result) -> None:
        self._states.enter(task.key, State.DONE)
        self._release(task, done=True)
        self._pruner.learn(task, record)
        self._context.observer.trial_done(task, record)
        self._tell(task, record["metrics"].get(self._context.plan.sweep.report.metric))

    def _give_up(self, task: Task, fault: Fault, *, write: bool = True) -> None:
        """A trial failed and is not retried; `write` says whether to record that in the ledger."""
        if fault.kind == "memory":  # a whole GPU was not enough: no other driver needs to try
            fault = replace(fault, kind="trial")
        if write:
            with suppress(OSError):  # a full disk: the next run of the sweep retries the trial
                record: Failure = {
                    **fault.to_json(),
                    "key": task.key,
                    "attempts": max(1, self._retries.faults(task.key)),
                    "needs": list(task.needs),
                }
                self._ledger.fail(task.key, record)
        self._states.enter(task.key, State.FAILED)
        self._release(task, done=False)
        self._context.observer.trial_failed(task, fault.error)
        self._tell(task, None)

    def _tell(self, task: Task, value: float | None, stop: Stopped | None = None) -> None:
        self._search.tell(task, value, stop)
        self.fill()

    def _release(self, task: Task, *, done: bool) -> None:
        if task.key in self._leased:
            self._leased.discard(task.key)
            with suppress(OSError):  # the lease then expires with this driver
                self._context.leases.release(task.key, done=done)
