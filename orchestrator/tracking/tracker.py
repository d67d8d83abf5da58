"""The experiment of a sweep in an MLflow store, and what the ledger says should be in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException

from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.heartbeats import is_ours, live_heartbeats
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Record
from orchestrator.storage.summaries import looked
from orchestrator.tracking import data_sets, page, payloads
from orchestrator.tracking.connection import TROUBLE, Connection
from orchestrator.tracking.dedupe import Copy, copies, discard, settle, unfinished, whole
from orchestrator.tracking.links import TRIALS, table_url
from orchestrator.tracking.payloads import KEY, PARENT, Ending
from orchestrator.tracking.points import Steps, after, lacking, last_steps
from orchestrator.tracking.sweep_run import Parent
from poisons import DataSpec, Store
from trainers.loop import Metrics
from trainers.provenance import commit

__all__ = ["KEY", "Tracker"]
Rows = list[tuple[int, Metrics]]  # epochs, each with its time in ms since 1970


class Tracker:
    """Writes runs of trials, and makes the store hold what the ledger does."""

    def __init__(self, uri: str, plan: Plan, store: Store, *, attach: bool = True) -> None:
        """Connects, and creates the experiment; or leaves that to `attach`. Raises InputError if nothing
        answers at `uri`."""
        self.plan, self.store = plan, store
        self.ledger = Ledger(store.where)
        self.connection = Connection(uri, store.root / "mlartifacts")
        self.attached, self.experiment = False, ""
        try:
            if attach:
                self.attach()
        except TROUBLE as error:
            raise self.connection.silent(error) from None

    @property
    def client(self) -> MlflowClient:
        return self.connection.client

    def table_url(self, server: str) -> str | None:
        """The link to the sweep's trials in the UI at `server`; None if this was never attached."""
        return table_url(server, self.experiment, TRIALS) if self.experiment else None

    def attach(self) -> None:
        """Connect, if that is yet to be done, and find the experiments, or make them; needed again when the
        store was away. Raises one of TROUBLE if it still is, InputError if its driver is not installed."""
        if not self.attached:
            self.connection.open()
        self.experiment = self.connection.experiment(self.plan.sweep.name, page.tags(self.plan))
        self.data_sets = self.connection.experiment(data_sets.NAME, data_sets.TAGS)
        self.parent = Parent(self.connection, self.experiment, self.plan)
        self.attached = True

    def check(self) -> None:
        """Raises one of TROUBLE if the store does not answer or takes nothing, or the experiment is gone."""
        self.connection.check(self.experiment)

    def runs(self, experiment: str | None = None) -> dict[str, list[Run]]:
        """Every run of an experiment (default: of the sweep's trials) by its key."""
        found: dict[str, list[Run]] = {}
        for run in self.connection.runs(experiment or self.experiment):
            if (key := run.data.tags.get(KEY)) is not None:
                found.setdefault(key, []).append(run)
        return found

    def copies(self, key: str | None = None) -> dict[str, list[Copy]]:
        """What the store has of every trial, or of one."""
        return copies(self.connection, self.experiment, key)

    def discard(self, group: Iterable[Copy]) -> None:
        discard(self.connection, group)

    # -- one run

    def start(self, task: Task, begun: int, ending: Ending | None = None, rows: Rows | None = None) -> str:
        """A new run for a trial begun at `begun` (ms since 1970), with its parameters, its data set and the
        first of its epochs; complete if there is an ending."""
        tags = payloads.tags(task, self.plan, commit()) | {PARENT: self.parent.run_id}
        tags |= ending.tags if ending else {}
        run = self.client.create_run(self.experiment, begun, tags=tags, run_name=payloads.name(task))
        run_id = str(run.info.run_id)
        self.connection.trained_on(run_id, payloads.data_input(task.trial.data, self.store))
        points = payloads.points(rows or []) + (ending.metrics if ending else [])
        self.connection.send(run_id, points, payloads.params(task.trial))
        if ending:
            self.client.set_terminated(run_id, ending.status, ending.when)
        return run_id

    def resume(self, run_id: str, task: Task) -> Steps:
        """Have an unfinished run of a trial be RUNNING again; returns how far it is."""
        run = self.client.get_run(run_id)
        self._reopen(run, task)
        return last_steps(self.connection.values(run))

    def log(self, run_id: str, rows: Rows, known: Steps | None = None) -> None:
        """Send epochs, but for what a run had `known` before."""
        self.connection.send(run_id, after(payloads.points(rows), known or {}))

    def finish(self, run_id: str, rows: Rows, ending: Ending, known: Steps | None = None) -> None:
        """The last of a run; its status comes last, for it says that all is there."""
        tags = [RunTag(*tag) for tag in ending.tags.items()]
        self.connection.send(run_id, after(payloads.points(rows), known or {}) + ending.metrics, tags=tags)
        self.client.set_terminated(run_id, ending.status, ending.when)

    def complete(self, task: Task, record: Record, group: Iterable[Copy] = ()) -> str:
        """One complete run for a trial that is done: an unfinished one of `group`, if all that it holds is in
        the record, or else a new one. Returns its id; the others may be discarded then."""
        ending, rows = self.ending(task, record), payloads.spaced(record)
        for copy in unfinished(group):
            run = self.client.get_run(copy.run_id)
            rest = lacking(payloads.points(rows) + ending.metrics, self.connection.values(run))
            if rest is not None:
                self._reopen(run, task)
                self.finish(copy.run_id, [], replace(ending, metrics=rest))
                return copy.run_id
        return self.start(task, payloads.begun(record), ending, rows)

    def _reopen(self, run: Run, task: Task) -> None:
        """Have a run be RUNNING, with nothing of how it ended before, and with what a new one would have."""
        run_id = run.info.run_id
        for tag in payloads.END_TAGS & run.data.tags.keys():
            self.client.delete_tag(run_id, tag)
        self.client.update_run(run_id, "RUNNING")
        tags = payloads.tags(task, self.plan, commit()) | {PARENT: self.parent.run_id}
        changed = [RunTag(*tag) for tag in tags.items() if run.data.tags.get(tag[0]) != tag[1]]
        params = [param for param in payloads.params(task.trial) if param.key not in run.data.params]
        self.connection.send(run_id, params=params, tags=changed)
        if not run.inputs.dataset_inputs:
            self.connection.trained_on(run_id, payloads.data_input(task.trial.data, self.store))

    def ending(self, task: Task, record: Record) -> Ending:
        """How the run of a trial that is done ends: with what looks at it found."""
        found = self.ledger.findings({task.key: task.look_keys})[task.key] if task.looks else {}
        return payloads.with_looks(payloads.done(record), task, found)

    # -- all of them

    def sync(self, report: Callable[[int, int], None] = lambda _sent, _of: None) -> int:
        """Make every finished trial of the sweep appear once, complete, and every other that ended as it
        did; returns how many finished ones were sent. `report` hears of each: (sent, of).

        What the store refuses of one trial keeps no other back; it is raised at the end.
        """
        done = self._done()
        wanted = {task.key: task for task in self.plan.tasks if task.key in done}
        refused: dict[str, Exception] = {}

        def write(key: str, group: list[Copy]) -> None:
            try:
                if (record := self.ledger.result(key)) is not None:
                    self.complete(wanted[key], record, self._ours(group))
            except TROUBLE as error:  # another driver may write it too, and delete ours: we look again
                self.check()
                refused[key] = error

        sent, missing = settle(self.connection, self.experiment, wanted, write, report)
        self._send_looks(wanted)
        self._send_ends(done)
        self._adopt()
        data = (spec for task in self.plan.tasks for spec in (*task.trial.data.crafted, task.trial.data))
        self.sync_data(data)
        self._close(set(wanted))
        for key in refused.keys() & set(missing):
            raise refused[key]
        return sent

    def _ours(self, group: list[Copy]) -> list[Copy]:
        """The runs that nobody else writes to: of two who send one point, each sends it with a time of its
        own. While other drivers live, one that is RUNNING may be theirs."""
        running = any(copy.status == "RUNNING" for copy in group)
        if not running or all(map(is_ours, live_heartbeats(self.ledger.storage))):
            return group
        return [copy for copy in group if copy.status != "RUNNING"]

    def _done(self) -> set[str]:
        """The keys of all trials that are done, those of this sweep with their looks."""
        done = self.ledger.done()
        looks = {task.key: task.look_keys for task in self.plan.tasks if task.looks and task.key in done}
        seen = looked(self.ledger, looks)
        return done - {key for key in looks if len(seen[key]) < len(looks[key])}

    def _send_looks(self, wanted: Mapping[str, Task]) -> None:
        """What looks found at trials whose runs were complete before: the tag that says so comes last."""
        known = self.copies() if any(task.looks for task in wanted.values()) else {}
        for key, group in known.items():
            task, copy = wanted.get(key), whole(group)
            if task is None or copy is None or not (new := dict(task.look_keys.items() - copy.looks)):
                continue
            points, tags = payloads.looked(task, self.ledger.findings({key: new})[key])
            try:
                self.connection.send(copy.run_id, points)
                self.connection.send(copy.run_id, tags=[RunTag(*tag) for tag in tags.items()])
            except MlflowException:  # it was deleted; whoever did that writes another, with its looks
                self.check()

    def _send_ends(self, done: set[str]) -> None:
        """Trials that are not done and that nobody runs: a scheduler stopped them, they failed, or their
        driver died before it could send that. Of those that the store has, nothing is read."""
        tasks = {task.key: task for task in self.plan.tasks if task.key not in done}
        known = self.copies() if tasks else {}
        there = {key for key, group in known.items() if any(copy.status != "RUNNING" for copy in group)}
        leases = Leases(self.ledger.storage, driver="")
        running = tasks.keys() & known.keys() - there
        orphans = {key for key in running if leases.free(key)}
        open_keys = (tasks.keys() - known.keys()) | orphans
        stops = self.ledger.stops(open_keys & self.ledger.ended())
        failures = self.ledger.failures(open_keys & self.ledger.failed() - stops.keys())
        for key in stops.keys() | failures.keys() | orphans:
            group = known.get(key, [])
            if key in stops:
                self._end(tasks[key], group, stops[key], payloads.stopped(stops[key]))
            elif (record := failures.get(key)) is not None:
                self._end(tasks[key], group, record, payloads.failed(record["error"], payloads.ended(record)))
            else:
                self._end(tasks[key], group, {}, payloads.interrupted())

    def _end(self, task: Task, group: list[Copy], record: Record, ending: Ending) -> None:
        """One run of a trial that is not done, and how that ended; a run that is there is resumed for it."""
        for copy in group[:1]:
            try:
                self.finish(copy.run_id, payloads.spaced(record), ending, self.resume(copy.run_id, task))
            except MlflowException:  # it was deleted: whoever did that runs the trial, or has ended its run
                self.check()
        if not group:
            self.start(task, payloads.begun(record), ending, payloads.spaced(record))
        self.discard(group[1:])

    def _adopt(self) -> None:
        """Have one run of the sweep, above all of its trials."""
        for run_id in self.parent.settle():
            for child in list(self.connection.runs(self.experiment, f"tags.`{PARENT}` = '{run_id}'")):
                with suppress(MlflowException):  # it may have been deleted
                    self.client.set_tag(child.info.run_id, PARENT, self.parent.run_id)

    def _close(self, done: set[str]) -> None:
        """Tell the run of the sweep how it stands now that nobody runs it, or nobody here. What its scheduler
        stopped, or its search left out, is not missing."""
        snapshot, left = self.plan.snapshot, {task.key for task in self.plan.tasks} - done
        stopped = self.ledger.ended() & left if snapshot.stops else set()
        failed = self.ledger.failed() & left - stopped
        missing = snapshot.missing(done | stopped | failed, self.ledger.storage)
        status = "KILLED" if missing else "FAILED" if failed else "FINISHED"
        self.parent.tell(len(done), len(failed), status)

    def sync_data(self, specs: Iterable[DataSpec]) -> None:
        """Make every one of these data sets that is poisoned and in the store appear once, complete."""
        data_sets.sync(self.connection, self.data_sets, self.store, specs)
