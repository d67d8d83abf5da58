"""The commands on sweeps."""

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
    pass


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
            help="10¹² operations per second of a slot. [default: as finished trials had, else measured]",
            show_default=False,
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="OPSCTL_SLOTS",
            help="Trials that run at a time. [default: as many as on this machine]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what a sweep would do: data sets to build, trials to run, trials already done, and how many hours
    that takes. Starts nothing.

    Of several sweeps, `opsctl plan sweeps/paper/*.yaml`, it says that of all together: what they share counts
    once. One that cannot be planned, because its images are not there, say, is left out: then the exit code
    is 2.
    """
    plans, wrong = each_of(files, lambda file: plan_of(file, store, settings))
    if len(files) == 1:
        show_plan(*plans[0], console_of(), tflops=tflops, slots=slots)
    else:
        show_batch([todo for todo, _ in plans], plans[0][1], console_of(), tflops=tflops, slots=slots)
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

    Results are in the store as soon as a trial ends; interrupt at will and run the same command again to go
    on. Trials that failed by their own fault (they diverged, say) are left alone then; opsctl retry runs
    them again. Exit code 0: every trial is done; 1: some failed; 130: interrupted; 2: the sweep or an option
    is wrong.
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
            help="Only failed trials whose key begins so; opsctl status tells keys.",
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
    """Run failed trials of a sweep again, with all that is missing: as opsctl sweep does, which leaves alone
    trials that failed by their own fault.
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
        console.say(f"{snapshot.name}: no trial {'of these keys ' if keys else ''}has failed")
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
    console.say(f"{snapshot.name}: {len(failed)} trials that failed {word} run again")
    run_sweep(todo, stored, file, options, retry=failed)


@app.command()
def stop(
    file: Annotated[
        Path | None, typer.Argument(help="The sweep file of what is to stop.", show_default=False)
    ] = None,
    store: StoreOption = STORE,
    everything: Annotated[bool, typer.Option("--all", help="Stop every sweep of the store.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until they have stopped.")] = 120,
) -> None:
    """Have a running sweep end, from any machine that reaches its store; what is finished is kept.

    Exit code 0: it has ended, or nothing ran; 1: somebody did not answer.
    """
    from orchestrator.monitoring.status import place
    from orchestrator.monitoring.stop import stop_drivers
    from orchestrator.storage.heartbeats import live_heartbeats

    if (file is None) is not everything:
        from trainers import InputError

        raise InputError("opsctl stop takes one sweep file, or --all for every sweep of the store")
    name = None if file is None else name_of(file, store)
    storage, console = ledger_of(store).storage, console_of()
    found = [heartbeat for heartbeat in live_heartbeats(storage) if name in (None, heartbeat["sweep"])]
    if not found:
        console.say(f"no sweep runs in {storage.where}" if name is None else f"{name} does not run")
        return
    with console.status(f"waiting for {len(found)} to end"):
        left = {heartbeat["id"] for heartbeat in stop_drivers(storage, found, wait=wait)}
    for heartbeat in found:
        how = f"has not answered within {wait:g} s" if heartbeat["id"] in left else "has ended"
        console.say(f"{heartbeat['sweep']} {place(heartbeat)} {how}")
    raise typer.Exit(bool(left))


UNKNOWN = 3  # how a sweep ended that was sent to a cluster


@app.command()
def submit(
    file: File,
    store: Annotated[
        str,
        typer.Option(
            envvar="OPSCTL_STORE",
            help="Where the cluster keeps data sets and results: a folder all its machines share, or a URL.",
            show_default=False,
        ),
    ],
    address: Annotated[
        str, typer.Option(envvar="OPSCTL_DASHBOARD", help="The dashboard of the cluster's head.")
    ] = "http://127.0.0.1:8265",
    tracking_uri: UriOption = None,
    settings: SetOption = None,
    max_concurrent: MaxConcurrentOption = None,
    gpus_per_trial: GpusOption = None,
    cpus_per_trial: CpusOption = None,
    tracking_wait: TrackingWaitOption = 15.0,
    follow: Annotated[bool, typer.Option(help="Show what it says until it ends.")] = True,
) -> None:
    """Run a sweep on a cluster, from here, as `opsctl sweep` on its head would; one that is killed there is
    begun again.

    Only the sweep file travels. Ctrl-C leaves the sweep running, and so does a broken connection. Exit code:
    the sweep's, if it was followed to the end; 0 if nobody wanted to; 2 if there is no cluster, or it refuses
    us; 3 if nobody knows how it ended, or whether: the connection was lost for a minute, or the job was; 137
    and the like if it was killed time and again.
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
    with console_of().status("asking the cluster"):
        from orchestrator.cli.terminal import without_colours
        from orchestrator.execution.ray.jobs import Jobs
        from trainers.redaction import shown

        jobs = Jobs(address)
        job = jobs.submit(file, name, arguments)
    typer.echo(shown(sending.after(file, job, store=store, settings=settings, address=jobs.address)))
    code = 0
    if follow:
        try:
            code = jobs.follow(job, lambda text: typer.echo(without_colours(text), nl=False))
        except KeyboardInterrupt:
            typer.echo(f"\n{job} goes on without us; see above")
        except OSError as error:
            typer.echo(shown(f"\n{error}; see above"), err=True)
            code = UNKNOWN
    raise typer.Exit(code)


@app.command()
def status(
    file: File,
    store: StoreOption = STORE,
    settings: SetOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show how it goes on.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two looks.")] = 2,
) -> None:
    """Say how far a sweep is: what is done, what runs, what failed and why, what is missing.

    It is the sweep as it was last planned, wherever it runs. --watch ends when the sweep does, or with
    Ctrl-C, which ends nothing else.
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
    status_display.tell(status, live_heartbeats(ledger.storage), version, ledger.storage.where, console)
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
    """Print the tables of sweeps from the results on disk: mean ± std over seeds, and below them warnings:
    what failed, is missing, or is in doubt.

    A sweep that names a reference has the published figures beside its own; one with claims says which
    hold. It is the sweep as it was last planned, and nothing is started:

        opsctl report sweeps/width.yaml --compare clean,ops

        opsctl report sweeps/paper/*.yaml --format latex > tables.tex

        opsctl report sweeps/paper/*.yaml --html report.html

        opsctl report sweeps/width.yaml --format trials.csv > trials.csv

    csv has a line per cell of a table, trials.csv a line per trial: its sweep, key, the labels of its axes,
    all its metrics, seconds, state (done, failed, stopped, missing), platform, precision and warnings.
    Numbers have full precision and the metric's own unit, so that accuracies are fractions.
    pandas.read_csv(file, keep_default_na=False,
    na_values="") reads them exactly (before pandas 3: float_precision="round_trip" for the last digit).
    An axis that is named like another column is axis:NAME there. Text that a spreadsheet would run as a
    formula begins with an apostrophe.

    Exit code 0, whatever is missing; 2: a file, a column or a published table is not there, or one of several
    sweeps was left out because it cannot be planned.
    """
    from orchestrator.monitoring.sweep_status import read_status
    from orchestrator.report import make_sheet

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
