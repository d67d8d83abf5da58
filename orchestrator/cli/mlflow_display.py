"""Messages about MLflow: whether it answers, and where a sweep's table is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.loading import warn

if TYPE_CHECKING:
    from orchestrator.cli.terminal import Terminal
    from orchestrator.planning.plan import Plan
    from orchestrator.tracking import Tracker
    from poisons import Store


def open_tracker(uri: str | None, todo: Plan, stored: Store, console: Terminal) -> Tracker | None:
    """The tracker. If its store does not answer, it is returned unattached, with a warning, and the sweep
    goes on. None, with a warning, if the store cannot be used at all, as without its driver."""
    from orchestrator import tracking
    from trainers import InputError

    tracker = tracking.Tracker(uri or tracking.default_uri(stored.root), todo, stored, attach=False)
    try:
        tracker.attach()
    except tracking.TROUBLE as error:
        silent = tracker.connection.silent(error)
        warn(console, f"{silent}; the sweep goes on, and MLflow gets what it missed when it answers")
    except InputError as error:
        warn(console, f"{error}; the sweep goes on without it, see `opsctl track --help`")
        return None
    for warning in tracker.connection.warnings:
        warn(console, warning)
    return tracker


def show_link(tracker: Tracker, stored: Store, console: Terminal) -> None:
    """Print the link to the sweep's table in the MLflow UI, and how to start the UI if it may not run yet."""
    import shlex

    from orchestrator import tracking
    from orchestrator.tracking import server as mlflow_server
    from orchestrator.tracking.database import is_server

    uri = tracker.connection.uri
    url = tracker.table_url(uri if is_server(uri) else mlflow_server.usual_address())
    if url is None:
        return
    which = [] if uri == tracking.default_uri(stored.root) else ["--tracking-uri", uri]
    command = shlex.join(["opsctl", "ui", "--store", stored.where, *which])
    console.say(f"trials in MLflow: {url}" if is_server(uri) else f"trials in MLflow: {command}, then {url}")


def show_links(uri: str, server: str, console: Terminal, *, open_browser: bool) -> None:
    """Print links to the tables of all sweeps in an MLflow store, in the UI at `server`."""
    with console.status("reading the list of sweeps"):
        from orchestrator import tracking
        from orchestrator.tracking.links import links

        connection = tracking.Connection(uri, Path())
        try:
            connection.open()
            found = links(connection, server)
        except tracking.TROUBLE as error:
            raise connection.silent(error) from None
    if not found:
        console.say("it has no sweeps yet")
        return
    width = max(len(link.experiment) for link in found)
    for link in found:
        console.say(f"  {link.experiment:<{width}}  {link.url}")
    if open_browser:
        import webbrowser

        if not webbrowser.open(found[0].url):
            warn(console, "no browser can be opened here; open the link yourself")
