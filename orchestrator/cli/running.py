"""`opsctl sweep` and `opsctl retry`, after planning."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.loading import console_of, status_of, warn
from orchestrator.cli.mlflow_display import open_tracker, show_link
from orchestrator.cli.options import Format, RunOptions
from orchestrator.cli.plan_display import show_plan
from orchestrator.cli.report_display import print_report, sheet_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.cli.terminal import Terminal
    from orchestrator.monitoring.observer import Observer
    from orchestrator.planning.plan import Plan
    from orchestrator.tracking import LiveTracker, Tracker
    from poisons import Store


def run_sweep(
    todo: Plan,
    stored: Store,
    file: Path,
    options: RunOptions,
    *,
    retry: Collection[str] = (),
) -> None:
    """Run a plan and print its report. The failures of the trials to `retry` are removed only once it is
    certain that the plan can run."""
    console = console_of()
    if options.dry_run:
        show_plan(todo, stored, file, console)
        return
    if todo.missing:
        _check_start(todo, file, options, console)
    opening = _Opening(options, todo, stored, console)
    code = _run(todo, stored, opening, options.address, file, console, retry) if todo.missing else 0
    tracker = opening.tracker()
    if tracker is not None:
        live = opening.live
        _check_tracked(live.complete if live is not None else _synced(tracker), file, stored, console)
    elif not opening.done:
        _check_tracked(False, file, stored, console)
    print_report([sheet_of(status_of(todo, stored), file)], Format.table, console)
    if todo.failed:
        warn(
            console,
            f"{len(todo.failed)} trials failed before and were not run again; "
            f"opsctl retry {file} --store {stored.where} runs them",
        )
    if tracker is not None:
        show_link(tracker, stored, console)
    raise typer.Exit(code or bool(todo.failed))


def _check_start(todo: Plan, file: Path, options: RunOptions, console: Terminal) -> None:
    """Say what the report will lack, and make ready for Ray. Raises InputError if this machine lacks what a
    trial requests."""
    from orchestrator.report.preview import gaps

    for gap in gaps(todo.snapshot, file):
        warn(console, gap)
    if options.address is None:
        _check_this_machine(todo)
        make_private_token(console)
    import orchestrator.execution.ray.run  # noqa: F401  (two threads should not import at a time)


def _run(
    todo: Plan,
    stored: Store,
    opening: _Opening,
    address: str | None,
    file: Path,
    console: Terminal,
    retry: Collection[str],
) -> int:
    from orchestrator.cli import display
    from orchestrator.execution.ray.run import run_plan
    from orchestrator.monitoring.observer import Observers

    view: Observer = display.Screen(console) if console.is_terminal else display.Lines(console)
    outcome = run_plan(todo, stored, Observers(opening.observer, view), address=address, retry=retry)
    if outcome.interrupted:
        console.say(
            ("interrupted", "yellow"), f" after {outcome.done} trials; run the same command again to continue"
        )
        return 130
    if outcome.failed:
        again = f"opsctl status {file} --store {stored.where}"
        console.say((f"{len(outcome.failed)} of {todo.most} trials failed", "red"), f"; see: {again}")
        return 1
    return 0


def _check_this_machine(todo: Plan) -> None:
    """Raises InputError if this machine lacks what a trial requests, before Ray is started on it."""
    from orchestrator.planning.resources import lacking_here

    if problem := lacking_here(todo.sweep.run):
        from trainers import InputError

        raise InputError(f"{problem}, or use --address to name a cluster with such machines")


def make_private_token(console: Terminal) -> None:
    """Create a private token, if necessary. Call it before starting Ray here, whose own token others could
    read."""
    from orchestrator.cluster.token import make_private_token

    if warning := make_private_token():
        warn(console, warning)


class _Opening:
    """MLflow, opened in the background: its imports and migrations take as long as the start of Ray."""

    def __init__(self, options: RunOptions, todo: Plan, stored: Store, console: Terminal) -> None:
        from orchestrator.monitoring.observer import Awaited

        self.options, self.todo, self.stored, self.console = options, todo, stored, console
        self.live: LiveTracker | None = None
        self._tracker: Future[Tracker | None] = Future()
        self._live: Future[Observer | None] = Future()
        self.observer = Awaited(self._live, patience=options.tracking_wait)
        threading.Thread(target=self._open, name="open-mlflow", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it is open, or cannot be opened."""
        return self._tracker.done()

    def tracker(self) -> Tracker | None:
        """The tracker; None if there is none, or if a sweep has run and it is not there yet."""
        return None if self.todo.missing and not self.done else self._tracker.result()

    def _open(self) -> None:
        try:
            tracker = open_tracker(self.options.tracking_uri, self.todo, self.stored, self.console)
            if tracker is not None and self.todo.missing:
                from orchestrator.tracking import LiveTracker

                wait = self.options.tracking_wait
                self.live = LiveTracker(tracker, lambda text: warn(self.console, text), patience=wait)
        except BaseException as error:  # noqa: BLE001  (raised where the tracker is asked for)
            self._tracker.set_exception(error)
            self._live.set_result(None)
        else:
            self._tracker.set_result(tracker)
            self._live.set_result(self.live)


def _synced(tracker: Tracker) -> bool:
    from orchestrator.tracking import TROUBLE

    try:
        if tracker.attached:
            tracker.sync()
    except TROUBLE:
        return False
    return tracker.attached


def _check_tracked(complete: bool, file: Path, stored: Store, console: Terminal) -> None:
    if not complete:
        again = f"opsctl track {file} --store {stored.where}"
        warn(console, f"some results were not sent to MLflow; send them later with: {again}")
