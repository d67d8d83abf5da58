"""`opsctl sweep` and `opsctl retry`, after planning."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
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
        show_plan(todo, stored, console)
        return
    if options.address is None and todo.missing:
        _check_this_machine(todo)
        make_private_token(console)
    with ThreadPoolExecutor(1) as background:  # MLflow's imports and migrations take as long as Ray's start
        opening = background.submit(_trackers, todo, stored, options, console)
        code = _run(todo, stored, opening, options.address, file, console, retry) if todo.missing else 0
        tracker, live = opening.result()
    if tracker is not None:
        _check_tracked(live.complete if live is not None else _synced(tracker), file, stored, console)
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


def _run(
    todo: Plan,
    stored: Store,
    opening: Future[tuple[Tracker | None, LiveTracker | None]],
    address: str | None,
    file: Path,
    console: Terminal,
    retry: Collection[str],
) -> int:
    from orchestrator.cli import display
    from orchestrator.execution.ray.run import run_plan
    from orchestrator.monitoring.observer import Awaited, Observers

    view: Observer = display.Screen(console) if console.is_terminal else display.Lines(console)
    live = Awaited(lambda: opening.result()[1])  # first: it shows that it waits
    outcome = run_plan(todo, stored, Observers(live, view), address=address, retry=retry)
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


def _trackers(
    todo: Plan, stored: Store, options: RunOptions, console: Terminal
) -> tuple[Tracker | None, LiveTracker | None]:
    """The tracker, and what sends it the events of the sweep, if there are any."""
    tracker = open_tracker(options.tracking_uri, todo, stored, console)
    if tracker is None or not todo.missing:
        return tracker, None
    from orchestrator.tracking import LiveTracker

    wait = options.tracking_wait
    return tracker, LiveTracker(tracker, lambda message: warn(console, message), patience=wait)


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
