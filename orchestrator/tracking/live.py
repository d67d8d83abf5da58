"""Sends a running sweep to MLflow in batches, from a background thread that never blocks the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from orchestrator.monitoring.observer import Observer
from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.records import Result, Stopped
from orchestrator.tracking import payloads
from orchestrator.tracking.connection import TROUBLE, first_line
from orchestrator.tracking.dedupe import Copy, whole
from orchestrator.tracking.outbox import Outbox, Parcel
from orchestrator.tracking.tracker import Tracker
from poisons import DataSpec
from trainers.families import Metrics

EVERY_SECONDS = 5.0  # between batches
PATIENCE_SECONDS = 15.0  # how long to wait for a store that does not answer, when the sweep has ended
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # between attempts to reach an unreachable store
REFUSALS = 2  # failures of one trial's run while the store answers; the rest is then left to `sync`
BEAT_SECONDS = 10.0  # between updates of the sweep's own run


class LiveTracker(Observer):
    """Sends events of a sweep to MLflow every `every` seconds. Trials that take longer appear while they run;
    shorter ones are sent in one batch.

    If the store does not answer, it warns once and retries, at most a minute apart; once the store answers,
    everything missed is sent. The same holds for a tracker that is not attached yet, but then the caller has
    warned already. At the end of a sweep, an unreachable store is waited for `patience` seconds; then
    `complete` stays False, and `Tracker.sync` can send the rest at any time.
    """

    def __init__(
        self,
        tracker: Tracker,
        warn: Callable[[str], None],
        *,
        every: float = EVERY_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.tracker, self.warn, self.every, self.patience = tracker, warn, every, patience
        self.complete = False
        self.outbox = Outbox()
        self._old: dict[str, list[Copy]] | None = None  # the runs from before this sweep
        # the pause before the next attempt, while the store is unreachable
        self._away: float | None = None if tracker.attached else SHORTEST_PAUSE
        self._updated = float("-inf")
        self._given_up = False
        self._rejections = 0  # in a row, at the end of the sweep
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    # -- called by the driver

    def sweep_started(self, plan: Plan) -> None:
        self._thread.start()

    def data_built(self, spec: DataSpec) -> None:
        self.outbox.built(spec)

    def trial_started(self, task: Task) -> None:
        self.outbox.started(task)

    def trial_progress(self, task: Task, rows: list[Metrics]) -> None:
        self.outbox.progress(task, rows)

    def trial_retried(self, task: Task, why: str) -> None:
        self.outbox.started(task)

    def trial_done(self, task: Task, record: Result) -> None:
        self.outbox.ended(task, "done")

    def trial_stopped(self, task: Task, record: Stopped) -> None:
        self.outbox.ended(task, "stopped")

    def trial_failed(self, task: Task, error: str) -> None:
        self.outbox.ended(task, "failed", error)

    def sweep_ended(self) -> None:
        """Wait until everything is sent, or until the store has not answered for `patience` seconds."""
        self.outbox.close()
        closed = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.1)
            if time.monotonic() - max(closed, self.tracker.connection.answered) > self.patience:
                self._given_up = True
                return

    # -- in the thread

    def _run(self) -> None:
        while not (self.complete or self._given_up):
            closing = self.outbox.closed
            try:
                self._flush()
                if closing:
                    self.tracker.sync()
                    self.complete = True
            except TROUBLE as error:
                self._troubled(error, closing=closing)
            if not (self.complete or self._given_up):
                pause = self._away or (SHORTEST_PAUSE if self._rejections else None)
                self.outbox.wait(pause or self.every, patient=pause is not None)

    def _troubled(self, error: Exception, *, closing: bool) -> None:
        """What follows from an error: wait for a store that does not answer. At the end of a sweep, give up
        if it answers and rejects something twice: the first time it may have been started anew meanwhile."""
        if closing and self._answers():
            self._rejections += 1
            self._given_up = self._rejections >= REFUSALS
        else:
            self._rejections = 0
            self._back_off(error)

    def _answers(self) -> bool:
        try:
            if self.tracker.attached:
                self.tracker.check()
        except TROUBLE:
            return False
        return self.tracker.attached

    def _back_off(self, error: Exception) -> None:
        if self._away is None:
            self.warn(
                f"MLflow no longer answers ({first_line(error)}); the sweep goes on, "
                "and MLflow gets the rest when it is back"
            )
        self._away = min(LONGEST_PAUSE, 2 * self._away if self._away else SHORTEST_PAUSE)

    def _flush(self) -> None:
        """Send everything that is due. Raises one of TROUBLE if the store does not answer."""
        if self._away is not None:
            self._reconnect()
        if self._old is None:
            self._old = self.tracker.copies()
        for key in self.outbox.due():
            parcel = self.outbox.take(key)
            try:
                self._send(parcel)
            except TROUBLE as error:
                self._refused(parcel, error)
            if self._given_up:
                return
        self._send_data()
        self._beat()

    def _reconnect(self) -> None:
        """Connect again, or for the first time. The store may even be a different one now."""
        known, before = self.tracker.attached, self.tracker.experiment
        self.tracker.attach()
        self.tracker.check()
        if known and self.tracker.experiment != before:
            self.outbox.lose_runs()
        self._away = None
        self.warn(f"MLflow answers {'again' if known else 'now'}; it gets what it missed")

    def _refused(self, parcel: Parcel, error: Exception) -> None:
        """Raises one of TROUBLE if the store is unreachable. Otherwise the problem is this one run, which was
        deleted or holds something that MLflow rejects: start another, and in the end leave it to `sync`."""
        entry = parcel.entry
        entry.spoilt = True
        self.tracker.check()
        entry.run_id = None
        entry.refusals += 1
        if entry.refusals >= REFUSALS:
            self.outbox.drop(parcel)

    def _send(self, parcel: Parcel) -> None:
        entry, task = parcel.entry, parcel.entry.task
        if entry.run_id is None or (entry.spoilt and parcel.end == "done"):
            before = self._before(parcel)
            if whole(before) is not None:  # another driver ran it
                self.outbox.drop(parcel)
                return
            self._begin(parcel, before)
        elif parcel.end is None:
            self.tracker.log(entry.run_id, parcel.rows, entry.known)
        elif parcel.end == "done":
            record = self.tracker.ledger.result(task.key)
            if record is not None:
                rest = [(when, row) for when, row in payloads.spaced(record) if row["epoch"] > entry.sent]
                self.tracker.finish(entry.run_id, rest, self.tracker.ending(task, record))
        else:
            self.tracker.finish(entry.run_id, parcel.rows, self._ending(parcel), entry.known)
        self.outbox.arrived(parcel)

    def _before(self, parcel: Parcel) -> list[Copy]:
        """The runs of a trial that is about to get one; read again if they may have changed."""
        key = parcel.entry.task.key
        if parcel.entry.spoilt:
            return self.tracker.copies(key).get(key, [])
        return (self._old or {}).get(key, [])

    def _begin(self, parcel: Parcel, before: list[Copy]) -> None:
        """Resume an unfinished run of a trial from `before`, or start a new one."""
        entry, task = parcel.entry, parcel.entry.task
        if parcel.end == "done":
            record = self.tracker.ledger.result(task.key)
            if record is not None:
                kept = self.tracker.complete(task, record, before)
                self.tracker.discard(copy for copy in before if copy.run_id != kept)
            return
        ending = None if parcel.end is None else self._ending(parcel)
        if not before:
            entry.run_id = self.tracker.start(task, entry.begun, ending, parcel.rows)
            return
        first, *others = before
        self.tracker.discard(others)
        entry.spoilt = True  # it is compared with the record once there is one
        entry.known = self.tracker.resume(first.run_id, task)
        entry.run_id = first.run_id
        if ending is None:
            self.tracker.log(entry.run_id, parcel.rows, entry.known)
        else:
            self.tracker.finish(entry.run_id, parcel.rows, ending, entry.known)

    def _ending(self, parcel: Parcel) -> payloads.Ending:
        key = parcel.entry.task.key
        if parcel.end == "failed":
            return payloads.failed(parcel.entry.why)
        if parcel.end == "stopped" and (record := self.tracker.ledger.stopped(key)) is not None:
            return payloads.stopped(record)
        return payloads.interrupted()

    def _send_data(self) -> None:
        specs = list(self.outbox.data.values())
        if not specs:
            return
        try:
            self.tracker.sync_data(specs)
        except TROUBLE:
            self.tracker.check()  # raises if the store fails; else another driver interfered: left to `sync`
        for spec in specs:
            self.outbox.data.pop(spec.name, None)

    def _beat(self) -> None:
        """Update the progress in the sweep's own run."""
        if time.monotonic() - self._updated >= BEAT_SECONDS:
            plan, outbox = self.tracker.plan, self.outbox
            self.tracker.parent.update(plan.done + len(outbox.done), len(outbox.failed), "RUNNING")
            self._updated = time.monotonic()
