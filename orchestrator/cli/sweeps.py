"""The commands that work on sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import app
from orchestrator.cli.loading import (
    console_of,
    each_of,
    ledger_of,
    name_of,
    plan_of,
    refuse_left_out,
    snapshot_of,
)
from orchestrator.cli.options import (
    STORE,
    AddressOption,
    CompareOption,
    CpusOption,
    DryRunOption,
    File,
    Files,
    Format,
    FormatOption,
    GpusOption,
    HtmlOption,
    MaxConcurrentOption,
    RunOptions,
    SetOption,
    StoreOption,
    TrackingWaitOption,
    UriOption,
)
from orchestrator.cli.plan_display import show_batch, show_plan
from orchestrator.cli.report_display import print_report, sheet_of
from orchestrator.cli.running import run_sweep

if TYPE_CHECKING:
    from orchestrator.execution.ray.jobs import Jobs


@app.command()
def plan(
    files: Files,
    store: StoreOption = STORE,
    settings: SetOption = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            envvar="OPSCTL_TFLOPS",
            help="10¹² operations per second of a slot.",
            show_default="as in finished trials, else measured",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="OPSCTL_SLOTS",
            help="Number of concurrent trials.",
            show_default="as many as on this machine",
        ),
    ] = None,
) -> None:
    """Show what a sweep would do: data sets to build, trials to run, trials already done, and the estimated
    hours. Starts nothing.

    For several sweeps (opsctl plan sweeps/paper/*.yaml) it shows the total, in which shared work counts once.
    A sweep that cannot be planned, for example because its images are missing, is left out; the exit code is
    then 2.
    """
    plans, wrong = each_of(files, lambda file: (*plan_of(file, store, settings), file))
    todo, stored, file = plans[0]
    if len(files) == 1:
        show_plan(todo, stored, file, console_of(), tflops=tflops, slots=slots)
    else:
        planned = [(todo, file) for todo, _, file in plans]
        show_batch(planned, stored, console_of(), tflops=tflops, slots=slots)
    refuse_left_out(wrong)


@app.command()
def sweep(
    file: File,
    store: StoreOption = STORE,
    tracking_uri: UriOption = None,
    settings: SetOption = None,
    address: AddressOption = None,
    dry_run: DryRunOption = False,
    max_concurrent: MaxConcurrentOption = None,
    gpus_per_trial: GpusOption = None,
    cpus_per_trial: CpusOption = None,
    tracking_wait: TrackingWaitOption = 15.0,
) -> None:
    """Run a sweep: build its data sets, train its trials, and print its report.

    Each result is stored as soon as its trial ends. You can interrupt the sweep at any time and run the same
    command again to continue. It does not repeat trials that failed through their own fault, for example
    because they diverged; opsctl retry does. Exit code 0: every trial is done; 1: some failed; 130:
    interrupted; 2: the sweep or an option is invalid.
    """
    options = RunOptions(
        settings=settings,
        max_concurrent=max_concurrent,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        tracking_uri=tracking_uri,
        tracking_wait=tracking_wait,
        address=address,
        dry_run=dry_run,
    )
    todo, stored = plan_of(file, store, options.changes())
    run_sweep(todo, stored, file, options)


@app.command()
def retry(
    file: File,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...",
            help="Only failed trials whose key starts with KEY; opsctl status lists the keys.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = STORE,
    tracking_uri: UriOption = None,
    settings: SetOption = None,
    address: AddressOption = None,
    dry_run: DryRunOption = False,
    max_concurrent: MaxConcurrentOption = None,
    gpus_per_trial: GpusOption = None,
    cpus_per_trial: CpusOption = None,
    tracking_wait: TrackingWaitOption = 15.0,
) -> None:
    """Run the failed trials of a sweep again, and everything that is missing. opsctl sweep does not repeat
    trials that failed through their own fault.
    """
    from orchestrator.monitoring.sweep_status import read_status

    snapshot, ledger, _ = snapshot_of(file, store, settings)
    failed = [
        entry.key
        for entry, _ in read_status(snapshot, ledger).failed()
        if not keys or entry.key.startswith(tuple(keys))
    ]
    console = console_of()
    if not failed:
        console.say(f"{snapshot.name}: no trial {'with these keys ' if keys else ''}has failed")
        return
    options = RunOptions(
        settings=settings,
        max_concurrent=max_concurrent,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        tracking_uri=tracking_uri,
        tracking_wait=tracking_wait,
        address=address,
        dry_run=dry_run,
    )
    todo, stored = plan_of(file, store, options.changes(), retry=failed)
    word = "would be" if dry_run else "are"
    console.say(f"{snapshot.name}: {len(failed)} failed trials {word} run again")
    run_sweep(todo, stored, file, options, retry=failed)


@app.command()
def stop(
    file: Annotated[
        Path | None, typer.Argument(help="The file of the sweep to stop.", show_default=False)
    ] = None,
    store: StoreOption = STORE,
    everything: Annotated[bool, typer.Option("--all", help="Stop all running sweeps of the store.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="How many seconds to wait for the sweeps to stop.")
    ] = 120,
) -> None:
    """Stop a running sweep, from any machine with access to its store. Finished work is kept.

    Exit code 0: it has stopped, or was not running; 1: a driver did not respond in time.
    """
    from orchestrator.monitoring.driver_status import place
    from orchestrator.monitoring.stop import stop_drivers
    from orchestrator.storage.heartbeats import live_heartbeats

    if (file is None) is not everything:
        from trainers import InputError

        raise InputError(
            "opsctl stop takes either a sweep file or --all, which stops every sweep of the store"
        )
    name = None if file is None else name_of(file, store)
    storage, console = ledger_of(store).storage, console_of()
    found = [heartbeat for heartbeat in live_heartbeats(storage) if name in (None, heartbeat["sweep"])]
    if not found:
        console.say(f"no sweep is running in {storage.where}" if name is None else f"{name} is not running")
        return
    with console.status(f"waiting for {len(found)} to stop"):
        left = {heartbeat["id"] for heartbeat in stop_drivers(storage, found, wait=wait)}
    for heartbeat in found:
        how = f"has not responded within {wait:g} s" if heartbeat["id"] in left else "has stopped"
        console.say(f"{heartbeat['sweep']} {place(heartbeat)} {how}")
    raise typer.Exit(bool(left))


UNKNOWN = 3  # exit code if the outcome of a submitted sweep is unknown


@app.command()
def submit(
    file: File,
    store: Annotated[
        str,
        typer.Option(
            envvar="OPSCTL_STORE",
            help="Where the cluster stores data sets and results: a folder shared by all machines, or a URL.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str, typer.Option(envvar="OPSCTL_DASHBOARD", help="The dashboard address of the cluster's head.")
    ] = "http://127.0.0.1:8265",
    tracking_uri: UriOption = None,
    settings: SetOption = None,
    max_concurrent: MaxConcurrentOption = None,
    gpus_per_trial: GpusOption = None,
    cpus_per_trial: CpusOption = None,
    tracking_wait: TrackingWaitOption = 15.0,
    follow: Annotated[bool, typer.Option(help="Print its output until it ends.")] = True,
) -> None:
    """Submit a sweep to a cluster, where it runs as opsctl sweep on the head would. A sweep that is killed
    there is restarted.

    Only the sweep file is sent. The sweep keeps running after Ctrl-C or a broken connection. Exit code: that
    of the sweep if its output was followed to the end; 0 with --no-follow; 2 if no cluster answers or it
    rejects the request; 3 if the outcome is unknown, because the connection was lost for a minute or the job
    was lost; 137 or similar if the sweep was killed repeatedly.
    """
    from orchestrator.cluster import submit as sending

    options = RunOptions(
        settings=settings,
        max_concurrent=max_concurrent,
        gpus_per_trial=gpus_per_trial,
        cpus_per_trial=cpus_per_trial,
        tracking_uri=tracking_uri,
        tracking_wait=tracking_wait,
    )
    settings = options.changes()
    name, arguments = sending.prepare(
        file, store=store, settings=settings, tracking_uri=tracking_uri, tracking_wait=tracking_wait
    )
    with console_of().status("contacting the cluster"):
        from orchestrator.execution.ray.jobs import Jobs
        from trainers.redaction import shown

        jobs = Jobs(address)
        job = jobs.submit(file, name, arguments)
    typer.echo(shown(sending.after(file, job, store=store, settings=settings, address=jobs.address)))
    raise typer.Exit(_followed(jobs, job) if follow else 0)


def _followed(jobs: Jobs, job: str) -> int:
    """Print the output of a submitted sweep until it ends; its exit code."""
    from orchestrator.cli.terminal import without_colours
    from trainers.redaction import shown

    try:
        return jobs.follow(job, lambda text: typer.echo(without_colours(text), nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\n{job} keeps running; see above")
        return 0
    except OSError as error:
        typer.echo(shown(f"\n{error}; see above"), err=True)
        return UNKNOWN


@app.command()
def status(
    file: File,
    store: StoreOption = STORE,
    settings: SetOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep running and update the display.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between updates.")] = 2,
) -> None:
    """Show the progress of a sweep: what is done, what is running, what failed and why, what is missing.

    It shows the sweep as it was last planned, wherever it runs. --watch ends with the sweep, or on Ctrl-C,
    which does not stop the sweep.
    """
    from orchestrator.cli import status_display
    from orchestrator.monitoring.sweep_status import read_status
    from orchestrator.storage.heartbeats import live_heartbeats

    snapshot, ledger, version = snapshot_of(file, store, settings)
    console, status = console_of(), None
    if watch:
        from orchestrator.cluster.host import stoppable
        from orchestrator.monitoring import watch as watching

        screen = console.is_terminal
        view = status_display.Screen(console, version) if screen else status_display.Lines(console)
        with stoppable() as stop:
            status = watching.watch(snapshot, ledger, view, every=every, stop=stop)
    status = status or read_status(snapshot, ledger)
    status_display.show(status, live_heartbeats(ledger.storage), version, ledger.storage.where, console)
    print_report([sheet_of(status, file)], Format.table, console, brief=True)


@app.command()
def report(
    files: Files,
    store: StoreOption = STORE,
    settings: SetOption = None,
    format: FormatOption = Format.table,
    compare: CompareOption = None,
    html: HtmlOption = None,
) -> None:
    """Print the tables of sweeps from the results on disk: mean ± std over seeds, followed by warnings about
    failed, missing or doubtful trials.

    If the sweep names a reference, the published figures are shown too; if it has claims, their verdicts.
    The report uses the sweep as it was last planned, and starts nothing:

        opsctl report sweeps/width.yaml --compare clean,ops

        opsctl report sweeps/paper/*.yaml --format latex > tables.tex

        opsctl report sweeps/paper/*.yaml --html report.html

        opsctl report sweeps/width.yaml --format trials.csv > trials.csv

    csv has a line per cell of a table; trials.csv has a line per trial, with its sweep, key, axis labels, all
    metrics, seconds, state (done, failed, stopped, missing), platform, precision and warnings. Numbers have
    full precision and the metric's own unit, so accuracies are fractions. pandas.read_csv(file,
    keep_default_na=False, na_values="") reads them exactly (before pandas 3, add
    float_precision="round_trip" for the last digit). An axis with the name of another column becomes
    axis:NAME. Text that a spreadsheet would evaluate as a formula starts with an apostrophe.

    Exit code 0, even if trials are missing; 2: a file, a column or a published table does not exist, or one
    of several sweeps was left out because it cannot be planned.
    """
    from orchestrator.monitoring.sweep_status import read_status
    from orchestrator.report import make_sheet
    from trainers import InputError

    if html is not None and format is not Format.table:
        raise InputError("--format says what is printed, and --html writes a page instead: use one of them")
    found, wrong = each_of(files, lambda file: (file, *snapshot_of(file, store, settings)[:2]))
    sheets = [
        make_sheet(read_status(snapshot, ledger), file, compare or ()) for file, snapshot, ledger in found
    ]
    console = console_of()
    if html is None:
        print_report(sheets, format, console)
    else:
        from orchestrator.report.html import write_page

        with console.status("writing the page"):
            write_page(sheets, html, store=store)
        console.say(f"the report is in {html}")
    refuse_left_out(wrong)
