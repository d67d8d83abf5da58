"""The commands that run no sweep: `track` and `ui` for MLflow, `doctor`, `kinds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.loading import console_of, plan_of, warn
from orchestrator.cli.mlflow_display import show_link, show_links
from orchestrator.cli.options import (
    STORE,
    AllowedHostsOption,
    File,
    SetOption,
    StoreOption,
    UiHostOption,
    UiPortOption,
    UriOption,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.cli.terminal import Terminal


@app.command()
def track(
    file: File, store: StoreOption = STORE, tracking_uri: UriOption = None, settings: SetOption = None
) -> None:
    """Send the results of a sweep that MLflow lacks. Running it again is safe."""
    from orchestrator import tracking
    from trainers import InputError

    todo, stored = plan_of(file, store, settings)
    tracker = tracking.Tracker(tracking_uri or tracking.default_uri(stored.root), todo, stored)
    console = console_of()
    for warning in tracker.connection.warnings:
        warn(console, warning)
    with console.status("sending results to MLflow") as line:
        try:
            sent = tracker.sync(lambda n, of: line.update(f"sending results to MLflow: {n} of {of}"))
        except tracking.TROUBLE as error:
            raise InputError(f"MLflow stopped answering ({error}); run the same command again") from None
    console.say(f"{todo.sweep.name}: {sent} trials sent, {todo.done - sent} were there already")
    show_link(tracker, stored, console)


@app.command()
def ui(
    store: StoreOption = STORE,
    tracking_uri: UriOption = None,
    host: UiHostOption = "127.0.0.1",
    port: UiPortOption = 5000,
    allowed_hosts: AllowedHostsOption = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the first link, the sweep that ran last, in the browser.")
    ] = False,
) -> None:
    """Start the MLflow UI on the store's database, and print a link to each sweep's table of trials. Ctrl-C
    stops it.

    If --tracking-uri is a server (http://...), which has its own UI, it prints the links and starts nothing.
    """
    from orchestrator.storage.locations import local_folder
    from orchestrator.tracking.database import DATABASE, is_server
    from trainers import InputError

    database = local_folder(store) / DATABASE
    if tracking_uri is None and not database.exists():
        raise InputError(f"{database} does not exist yet: run a sweep first, or pass --tracking-uri")
    console = console_of()
    uri = tracking_uri or f"sqlite:///{database}"
    if is_server(uri):
        show_links(uri, uri, console, open_browser=open_browser)
        return
    from sqlalchemy.exc import SQLAlchemyError

    from orchestrator.tracking import server as mlflow_server

    mlflow_server.check(uri, host=host, port=port, allowed=allowed_hosts or ())  # before MLflow is imported
    try:
        code = _serve_ui(uri, host, port, allowed_hosts or (), console, open_browser=open_browser)
    except (SQLAlchemyError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"no MLflow tracking store answers at {uri} ({reason})") from None
    raise typer.Exit(code)


def _serve_ui(
    uri: str, host: str, port: int, allowed: Sequence[str], console: Terminal, *, open_browser: bool
) -> int:
    """Run MLflow's server until it is stopped. Returns its exit code, or 0 if we stopped it."""
    from orchestrator.cluster.host import stoppable
    from orchestrator.tracking import server as mlflow_server
    from orchestrator.tracking.artifacts import make_relative
    from orchestrator.tracking.database import first_use, with_driver

    with stoppable() as stop:
        with console.status("starting MLflow"), first_use(with_driver(uri)):
            from orchestrator.tracking.schema import prepare

            warning = prepare(uri)
            make_relative(uri)
            server = mlflow_server.serve(uri, host=host, port=port, allowed=allowed)
            there = mlflow_server.answers(server, host, port, stop)
        try:
            if warning:
                warn(console, warning)
            if not mlflow_server.is_loopback(host):
                warn(
                    console,
                    f"everyone who can reach port {port} of this machine can read and change the MLflow data",
                )
            if there:
                address = mlflow_server.address(host, port, allowed)
                console.say(
                    f"MLflow is at {address} (Ctrl-C stops it); each sweep is an experiment, each trial a run"
                )
                show_links(uri, address, console, open_browser=open_browser)
            while server.poll() is None and not stop.wait(0.2):
                pass
        finally:
            code = mlflow_server.end(server)
    return 0 if stop.is_set() else code


@app.command()
def kinds(
    family: Annotated[
        str | None,
        typer.Argument(
            help="A family such as `poison`, or a part of the sweep file such as `train`.", show_default=False
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Argument(help="A kind of this family, such as `em`.", show_default=False)
    ] = None,
) -> None:
    """List everything that a sweep can name (poisons, architectures, ...), with fields and defaults.

    `opsctl kinds poison em` and `opsctl kinds train` say what each field means and which values it takes.
    """
    from orchestrator.cli.kinds import listing

    console = console_of()
    for part in listing(family, kind):
        console.print(part)
        console.print()


@app.command()
def doctor(store: StoreOption = STORE) -> None:
    """Check this machine: versions, devices, disk space, store, data sets."""
    from orchestrator.cli.doctor import findings

    console, colours = console_of(), {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings(store):
        console.say((f"{finding.state:<8}", colours[finding.state]), f" {finding.what:<16} {finding.text}")
