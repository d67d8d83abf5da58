"""The experiment of a sweep in an MLflow store, written from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException

from orchestrator.planning.plan import Plan, Task
from orchestrator.storage.heartbeats import is_ours, live_heartbeats
from orchestrator.storage.leases import Leases
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.stores import storage_of
from orchestrator.tracking import data_sets, page, payloads
from orchestrator.tracking.connection import TROUBLE, Connection
from orchestrator.tracking.dedupe import Copy, copies, discard, settle, unfinished, whole
from orchestrator.tracking.links import TRIALS, table_url
from orchestrator.tracking.payloads import KEY, PARENT, Ending
from orchestrator.tracking.points import Steps, after, lacking, last_steps
from orchestrator.tracking.sweep_run import Parent
from poisons import DataSpec, Store
from trainers.families import Metrics
from trainers.provenance import commit

__all__ = ["KEY", "Tracker"]
Rows = list[tuple[int, Metrics]]  # epochs, each with its time in ms since 1970


class Tracker:
    """Writes the runs of trials, and brings the MLflow store in line with the ledger."""

    def __init__(self, uri: str, plan: Plan, store: Store, *, attach: bool = True) -> None:
        """Connect and create the experiment, unless that is left to a later `attach`. Raises InputError if
        nothing answers at `uri`."""
        self.plan, self.store = plan, store
        self.ledger = Ledger(storage_of(store))
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
        """The link to the sweep's trials in the UI at `server`; None before the first `attach`."""
        return table_url(server, self.experiment, TRIALS) if self.experiment else None

    def attach(self) -> None:
        """Connect if necessary, and find or create the experiments. Call it again after the store was
        unreachable. Raises one of TROUBLE if it still is, InputError if its driver is not installed."""
        if not self.attached:
            self.connection.open()
        self.experiment = self.connection.experiment(self.plan.sweep.name, page.tags(self.plan))
        self.data_sets = self.connection.experiment(data_sets.NAME, data_sets.TAGS)
        self.parent = Parent(self.connection, self.experiment, self.plan)
        self.attached = True

    def check(self) -> None:
        """Raises one of TROUBLE if the store cannot be read or written, or the experiment was deleted."""
        self.connection.check(self.experiment)

    def runs(self, experiment: str | None = None) -> dict[str, list[Run]]:
        """All runs of an experiment (default: that of the sweep's trials) by key."""
        found: dict[str, list[Run]] = {}
        for run in self.connection.runs(experiment or self.experiment):
            if (key := run.data.tags.get(KEY)) is not None:
                found.setdefault(key, []).append(run)
        return found

    def copies(self, key: str | None = None) -> dict[str, list[Copy]]:
        """The runs of every trial, or of one, by key."""
        return copies(self.connection, self.experiment, key)

    def discard(self, group: Iterable[Copy]) -> None:
        discard(self.connection, group)

    # -- one run

    def start(self, task: Task, begun: int, ending: Ending | None = None, rows: Rows | None = None) -> str:
        """Create a run for a trial that started at `begun` (ms since 1970), with its parameters, its data set
        and the epochs so far; with an `ending` the run is complete. Returns its id."""
        tags = payloads.tags(task, self.plan, commit()) | {PARENT: self.parent.run_id}
        tags |= ending.tags if ending else {}
        run = self.client.create_run(self.experiment, begun, tags=tags, run_name=payloads.name(task))
        run_id = str(run.info.run_id)
        self.connection.trained_on(run_id, payloads.data_input(task.trial.training_data, self.store))
        points = payloads.points(rows or []) + (ending.metrics if ending else [])
        self.connection.send(run_id, points, payloads.params(task.trial))
        if ending:
            self.client.set_terminated(run_id, ending.status, ending.when)
        return run_id

    def resume(self, run_id: str, task: Task) -> Steps:
        """Set an unfinished run of a trial to RUNNING again. Returns the last step of each metric."""
        run = self.client.get_run(run_id)
        self._reopen(run, task)
        return last_steps(self.connection.values(run))

    def log(self, run_id: str, rows: Rows, known: Steps | None = None) -> None:
        """Send epochs, without the steps that the run already has (`known`)."""
        self.connection.send(run_id, after(payloads.points(rows), known or {}))

    def finish(self, run_id: str, rows: Rows, ending: Ending, known: Steps | None = None) -> None:
        """Send the rest of a run. Its status is set last, because it marks the run as complete."""
        tags = [RunTag(*tag) for tag in ending.tags.items()]
        self.connection.send(run_id, after(payloads.points(rows), known or {}) + ending.metrics, tags=tags)
        self.client.set_terminated(run_id, ending.status, ending.when)

    def complete(self, task: Task, record: Result, group: Iterable[Copy] = ()) -> str:
        """Write one complete run for a finished trial: complete an unfinished one of `group` whose points are
        all in the record, or create a new one. Returns its id; the others can be discarded then."""
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
        """Set a run to RUNNING, remove the tags of its earlier end, and add what a new run would have."""
        run_id = run.info.run_id
        for tag in payloads.END_TAGS & run.data.tags.keys():
            self.client.delete_tag(run_id, tag)
        self.client.update_run(run_id, "RUNNING")
        tags = payloads.tags(task, self.plan, commit()) | {PARENT: self.parent.run_id}
        changed = [RunTag(*tag) for tag in tags.items() if run.data.tags.get(tag[0]) != tag[1]]
        params = [param for param in payloads.params(task.trial) if param.key not in run.data.params]
        self.connection.send(run_id, params=params, tags=changed)
        if not run.inputs.dataset_inputs:
            self.connection.trained_on(run_id, payloads.data_input(task.trial.training_data, self.store))

    def ending(self, task: Task, record: Result) -> Ending:
        """The ending of a finished trial's run, including the findings of its probes."""
        found = self.ledger.findings({task.key: task.probe_keys})[task.key] if task.probes else {}
        return payloads.with_findings(payloads.done(record), task, found)

    # -- all runs

    def sync(self, report: Callable[[int, int], None] = lambda _sent, _of: None) -> int:
        """Ensure that every finished trial of the sweep has one complete run, and every other ended trial a
        run with its status. Returns how many finished trials were sent; calls `report(sent, of)` after each.

        If the store rejects one trial, the others are still sent, and the error is raised at the end.
        """
        done = self._done()
        wanted = {task.key: task for task in self.plan.tasks if task.key in done}
        refused: dict[str, Exception] = {}

        def write(key: str, group: list[Copy]) -> None:
            try:
                if (record := self.ledger.result(key)) is not None:
                    self.complete(wanted[key], record, self._ours(group))
            except TROUBLE as error:  # another driver may write it and delete ours; `settle` checks again
                self.check()
                refused[key] = error

        sent, missing = settle(self.connection, self.experiment, wanted, write, report)
        self._send_findings(wanted)
        self._send_ends(done)
        self._adopt()
        trials = (task.trial for task in self.plan.tasks)
        data = (spec for one in trials for spec in (*one.data.crafted, one.data, one.training_data))
        self.sync_data(data)
        self._close(set(wanted))
        for key in refused.keys() & set(missing):
            raise refused[key]
        return sent

    def _ours(self, group: list[Copy]) -> list[Copy]:
        """The runs that no other driver writes to: two drivers would send the same point with different
        times. While other drivers are alive, a RUNNING run may be theirs."""
        running = any(copy.status == "RUNNING" for copy in group)
        if not running or all(map(is_ours, live_heartbeats(self.ledger.storage))):
            return group
        return [copy for copy in group if copy.status != "RUNNING"]

    def _done(self) -> set[str]:
        """The keys of all finished trials; those of this sweep only if their probes are finished too."""
        done = self.ledger.done()
        probe_keys = {
            task.key: task.probe_keys for task in self.plan.tasks if task.probes and task.key in done
        }
        probed = self.ledger.finding_summaries(probe_keys)
        return done - {key for key in probe_keys if len(probed[key]) < len(probe_keys[key])}

    def _send_findings(self, wanted: Mapping[str, Task]) -> None:
        """Send findings for trials whose runs were complete before. The tag that marks them comes last."""
        known = self.copies() if any(task.probes for task in wanted.values()) else {}
        for key, group in known.items():
            task, copy = wanted.get(key), whole(group)
            if task is None or copy is None or not (new := dict(task.probe_keys.items() - copy.probes)):
                continue
            points, tags = payloads.findings(task, self.ledger.findings({key: new})[key])
            try:
                self.connection.send(copy.run_id, points)
                self.connection.send(copy.run_id, tags=[RunTag(*tag) for tag in tags.items()])
            except MlflowException:  # deleted by another driver, which writes a new run with the findings
                self.check()

    def _send_ends(self, done: set[str]) -> None:
        """Send the status of trials that are not done and not running: a scheduler stopped them, they failed,
        or their driver died first. Trials whose runs have ended are not read again."""
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

    def _end(self, task: Task, group: list[Copy], record: Mapping[str, Any], ending: Ending) -> None:
        """End a run of a trial that is not done. An existing run is resumed; the others are deleted."""
        for copy in group[:1]:
            try:
                self.finish(copy.run_id, payloads.spaced(record), ending, self.resume(copy.run_id, task))
            except MlflowException:  # deleted by another driver, which runs the trial or has ended its run
                self.check()
        if not group:
            self.start(task, payloads.begun(record), ending, payloads.spaced(record))
        self.discard(group[1:])

    def _adopt(self) -> None:
        """Keep one run of the sweep, and make it the parent of all trials."""
        for run_id in self.parent.settle():
            for child in list(self.connection.runs(self.experiment, f"tags.`{PARENT}` = '{run_id}'")):
                with suppress(MlflowException):  # it may have been deleted
                    self.client.set_tag(child.info.run_id, PARENT, self.parent.run_id)

    def _close(self, done: set[str]) -> None:
        """Set the final counts and status of the sweep's run. Trials that its scheduler stopped, or its
        search left out, do not count as missing."""
        snapshot, left = self.plan.snapshot, {task.key for task in self.plan.tasks} - done
        stopped = self.ledger.ended() & left if snapshot.stops else set()
        failed = self.ledger.failed() & left - stopped
        missing = snapshot.missing(done | stopped | failed, self.ledger.storage)
        status = "KILLED" if missing else "FAILED" if failed else "FINISHED"
        self.parent.update(len(done), len(failed), status)

    def sync_data(self, specs: Iterable[DataSpec]) -> None:
        """Ensure that each of these data sets that is poisoned and in the store has one complete run."""
        data_sets.sync(self.connection, self.data_sets, self.store, specs)
