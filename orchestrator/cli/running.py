"""`opsctl sweep` and `opsctl retry`, once their plan is made."""

from __future__ import annotations

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
    """Run a plan and print its report; failures of the trials to `retry` are forgotten once it is certain
    that it can run."""
    console = console_of()
    if options.dry_run:
        show_plan(todo, stored, console)
        return
    if options.address is None and todo.missing:
        _check_this_machine(todo)
        make_private_token(console)
    tracker = open_tracker(options.tracking_uri, todo, stored, console)
    live = _live(tracker, options.tracking_wait, console) if tracker is not None and todo.missing else None
    code = _run(todo, stored, live, options.address, file, console, retry) if todo.missing else 0
    if tracker is not None:
        _check_tracked(live.complete if live is not None else _synced(tracker), file, stored, console)
    print_report([sheet_of(status_of(todo, stored), file)], Format.table, console)
    if todo.failed:
        warn(
            console,
            f"{len(todo.failed)} trials failed before and are left as they are; "
            f"opsctl retry {file} --store {stored.where} runs them again",
        )
    if tracker is not None:
        show_link(tracker, stored, console)
    raise typer.Exit(code or bool(todo.failed))


def _run(
    todo: Plan,
    stored: Store,
    live: LiveTracker | None,
    address: str | None,
    file: Path,
    console: Terminal,
    retry: Collection[str],
) -> int:
    from orchestrator.cli import display
    from orchestrator.monitoring.observer import Observers

    view: Observer = display.Screen(console) if console.is_terminal else display.Lines(console)
    observers = [view] if live is None else [view, live]
    from orchestrator.execution.ray.run import run_plan

    outcome = run_plan(todo, stored, Observers(*observers), address=address, retry=retry)
    if outcome.interrupted:
        console.say(
            ("interrupted", "yellow"), f" after {outcome.done} trials; the same command again goes on"
        )
        return 130
    if outcome.failed:
        again = f"opsctl status {file} --store {stored.where}"
        console.say((f"{len(outcome.failed)} of {todo.most} trials failed", "red"), f"; see: {again}")
        return 1
    return 0


def _check_this_machine(todo: Plan) -> None:
    """InputError if this machine can never give what a trial asks for: before Ray is started on it."""
    from orchestrator.planning.resources import lacking_here

    if problem := lacking_here(todo.sweep.run):
        from trainers import InputError

        raise InputError(f"{problem}, or name a cluster that has such machines with --address")


def make_private_token(console: Terminal) -> None:
    """Before Ray is started on this machine, and makes one that others could read."""
    from orchestrator.cluster.token import make_private_token

    if warning := make_private_token():
        warn(console, warning)


def _live(tracker: Tracker, patience: float, console: Terminal) -> LiveTracker:
    from orchestrator.tracking import LiveTracker

    return LiveTracker(tracker, lambda message: warn(console, message), patience=patience)


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
        warn(console, f"MLflow lacks some results; send them later with: {again}")
