"""The command line, `opsctl`. The only file that imports typer; everything heavy is imported by the command
that needs it."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from orchestrator.monitoring.observer import Observer
    from orchestrator.monitoring.sweep_status import Standing
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.snapshot import Outline
    from orchestrator.report import Sheet
    from orchestrator.storage.ledger import Ledger
    from orchestrator.terminal import Terminal
    from orchestrator.tracking import LiveTracker, Tracker
    from poisons import Store

Made = TypeVar("Made")

app = typer.Typer(
    name="opsctl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Sweeps over [bold]unlearnable examples[/]: "
        "make poisoned data sets, train on them, and see what protects."
        "\n\n"
        "Begin with [cyan]opsctl sweep sweeps/quickstart.yaml[/]. A finished trial is never run twice: "
        "the same command again goes on where the last one stopped."
    ),
)

cache = typer.Typer(no_args_is_help=True, help="The data sets of a store: list, show, verify, remove.")
app.add_typer(cache, name="cache")


def _version(asked: bool) -> None:
    if asked:
        from trainers.provenance import opsctl_version

        typer.echo(f"opsctl {opsctl_version() or 'of an unknown version'}")
        raise typer.Exit


@app.callback()
def opsctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version, and end.")
    ] = False,
) -> None: ...


File = Annotated[
    Path, typer.Argument(help="A sweep file, such as sweeps/quickstart.yaml.", show_default=False)
]
Files = Annotated[
    list[Path],
    typer.Argument(help="Sweep files, such as sweeps/quickstart.yaml.", show_default=False),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="OPSCTL_STORE",
        help="Where data sets and results are kept: a folder, or a URL such as s3://bucket/prefix.",
    ),
]
UriOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="OPSCTL_TRACKING_URI",
        help=(
            "MLflow's tracking store: sqlite:///file, http://server:5000, postgresql://... "
            "[default: sqlite:///STORE/mlflow.db]"
        ),
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        envvar="OPSCTL_SET",
        help=(
            "Change the sweep: a path of the trial (train.epochs=2), an axis (seed=[0,1]), "
            "run.*, report.* or probes.*. Repeatable."
        ),
        show_default=False,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="OPSCTL_ADDRESS",
        help=(
            "An existing Ray cluster: auto or host:6379; its machines need opsctl and the store. "
            "[default: start Ray on this machine]"
        ),
        show_default=False,
    ),
]
TrackingWaitOption = Annotated[
    float,
    typer.Option(
        min=0,
        envvar="OPSCTL_TRACKING_WAIT",
        help="Seconds to wait, when the sweep has ended, for an MLflow that does not answer.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", envvar="OPSCTL_DRY_RUN", help="Show the plan and stop.")
]
MaxConcurrentOption = Annotated[
    int | None,
    typer.Option(
        min=1, envvar="OPSCTL_MAX_CONCURRENT", help="Trials at a time, at most.", show_default=False
    ),
]
GpusOption = Annotated[
    str | None,
    typer.Option(
        envvar="OPSCTL_GPUS_PER_TRIAL",
        help="Share of a GPU for each trial, such as 0.25, or auto: as much as it needs. "
        "[default: 1 where there is one]",
        show_default=False,
    ),
]
CpusOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        envvar="OPSCTL_CPUS_PER_TRIAL",
        help="Processors for each trial. [default: 1]",
        show_default=False,
    ),
]
KeyArgument = Annotated[
    str,
    typer.Argument(
        help="The beginning of a data set's key, or of its folder's name; opsctl cache ls lists them.",
        show_default=False,
    ),
]
STORE = "opsctl-store"
UNKNOWN = 3  # how a sweep ended that was sent to a cluster
SOURCE = "digits"


class ExportForm(StrEnum):
    """How a data set is written for others."""

    image_folder = "image_folder"
    parquet = "parquet"
    npz = "npz"
    hf = "hf"


class HowApplied(StrEnum):
    """How float noise becomes whole levels."""

    signed = "signed"
    released_em = "released_em"
    released_ops = "released_ops"


class Format(StrEnum):
    """How a report is written."""

    table = "table"
    md = "md"
    latex = "latex"
    csv = "csv"
    trials_csv = "trials.csv"
    json = "json"
    svg = "svg"


FormatOption = Annotated[Format, typer.Option(envvar="OPSCTL_FORMAT", help="How to write it.")]
CompareOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A,B",
        envvar="OPSCTL_COMPARE",
        help="Two columns to compare, seed by seed: em,ops tells ops minus em. Repeatable.",
        show_default=False,
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        envvar="OPSCTL_HTML",
        help="Write all of it to one page there, with curves and pictures, and print nothing else.",
        show_default=False,
    ),
]
UiHostOption = Annotated[
    str,
    typer.Option(envvar="OPSCTL_UI_HOST", help="Address to listen on; loopback keeps it to this machine."),
]
UiPortOption = Annotated[
    int, typer.Option(min=1, max=65535, envvar="OPSCTL_UI_PORT", help="Port to listen on.")
]
AllowedHostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-hosts",
        envvar="OPSCTL_UI_ALLOWED_HOSTS",
        help="Names by which other machines reach this one, such as box.example.org; a request by any "
        "other name is refused. [default: --host, and this machine's own]",
        show_default=False,
    ),
]


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
    plans, wrong = _each(files, lambda file: _plan(file, store, settings))
    if len(files) == 1:
        _show_plan(*plans[0], _console(), tflops=tflops, slots=slots)
    else:
        _show_union([todo for todo, _ in plans], plans[0][1], _console(), tflops=tflops, slots=slots)
    _tell_left_out(wrong)


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
    options = _run_options(max_concurrent, gpus_per_trial, cpus_per_trial)
    todo, stored = _plan(file, store, [*(settings or []), *options])
    _sweep(todo, stored, file, tracking_uri, address, tracking_wait, dry_run=dry_run)


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
    from orchestrator.monitoring.sweep_status import look

    outline, ledger, _ = _outline(file, store, settings)
    failed = [
        entry.key
        for entry, _ in look(outline, ledger).failed()
        if not keys or entry.key.startswith(tuple(keys))
    ]
    console = _console()
    if not failed:
        console.say(f"{outline.name}: no trial {'of these keys ' if keys else ''}has failed")
        return
    options = _run_options(max_concurrent, gpus_per_trial, cpus_per_trial)
    todo, stored = _plan(file, store, [*(settings or []), *options], retry=failed)
    word = "would be" if dry_run else "are"
    console.say(f"{outline.name}: {len(failed)} trials that failed {word} run again")
    _sweep(todo, stored, file, tracking_uri, address, tracking_wait, dry_run=dry_run, retry=failed)


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
    from orchestrator.storage.heartbeats import marks

    if (file is None) is not everything:
        from trainers import InputError

        raise InputError("opsctl stop takes one sweep file, or --all for every sweep of the store")
    name = None if file is None else _name(file, store)
    depot, console = _ledger(store).depot, _console()
    found = [mark for mark in marks(depot) if name in (None, mark["sweep"])]
    if not found:
        console.say(f"no sweep runs in {depot.where}" if name is None else f"{name} does not run")
        return
    with console.status(f"waiting for {len(found)} to end"):
        left = {mark["id"] for mark in stop_drivers(depot, found, wait=wait)}
    for mark in found:
        how = f"has not answered within {wait:g} s" if mark["id"] in left else "has ended"
        console.say(f"{mark['sweep']} {place(mark)} {how}")
    raise typer.Exit(bool(left))


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

    run = {
        "run.max_concurrent": max_concurrent,
        "run.gpus_per_trial": gpus_per_trial,
        "run.cpus_per_trial": cpus_per_trial,
    }
    options = [f"{path}={value}" for path, value in run.items() if value is not None]
    settings = [*(settings or []), *options]
    name, arguments = sending.prepare(
        file, store=store, settings=settings, tracking_uri=tracking_uri, tracking_wait=tracking_wait
    )
    with _console().status("asking the cluster"):
        from orchestrator.execution.ray.jobs import Jobs
        from orchestrator.terminal import without_colours
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
    from orchestrator import status_display
    from orchestrator.monitoring.sweep_status import look
    from orchestrator.storage.heartbeats import marks

    outline, ledger, version = _outline(file, store, settings)
    console, standing = _console(), None
    if watch:
        from orchestrator.cluster.host import stoppable
        from orchestrator.monitoring import watch as watching

        screen = console.is_terminal
        view = status_display.Screen(console, version) if screen else status_display.Lines(console)
        with stoppable() as stop:
            standing = watching.watch(outline, ledger, view, every=every, stop=stop)
    standing = standing or look(outline, ledger)
    status_display.tell(standing, marks(ledger.depot), version, ledger.depot.where, console)
    _print_report([_sheet(standing, file)], Format.table, console, brief=True)


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
    from orchestrator.monitoring.sweep_status import look
    from orchestrator.report import make_sheet

    found, wrong = _each(files, lambda file: (file, *_outline(file, store, settings)[:2]))
    sheets = [make_sheet(look(outline, ledger), file, compare or ()) for file, outline, ledger in found]
    console = _console()
    if html is None:
        _print_report(sheets, format, console)
    else:
        from orchestrator.report.html import write_page

        with console.status("writing the page"):
            write_page(sheets, html, store=store)
        console.say(f"the report is in {html}")
    _tell_left_out(wrong)


@app.command()
def track(
    file: File, store: StoreOption = STORE, tracking_uri: UriOption = None, settings: SetOption = None
) -> None:
    """Send to MLflow whatever results of a sweep are not there yet. Harmless to repeat."""
    from orchestrator import tracking
    from trainers import InputError

    todo, stored = _plan(file, store, settings)
    tracker = tracking.Tracker(tracking_uri or tracking.default_uri(stored.root), todo, stored)
    console = _console()
    for warning in tracker.connection.warnings:
        _warn(console, warning)
    with console.status("sending results to MLflow") as line:
        try:
            sent = tracker.sync(lambda n, of: line.update(f"sending results to MLflow: {n} of {of}"))
        except tracking.TROUBLE as error:
            raise InputError(f"MLflow stopped answering ({error}); run the same command again") from None
    console.say(f"{todo.sweep.name}: {sent} trials sent, {todo.done - sent} were there already")
    _show_link(tracker, stored, console)


@app.command()
def poison(
    spec: Annotated[
        str,
        typer.Argument(
            help="A poison by name (ops), YAML ({source: cifar10, poison: \\[em, ops]}), or a file of it.",
            show_default=False,
        ),
    ],
    store: StoreOption = STORE,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change the data set: source=cifar10, poison.pixels=2. Repeatable.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Ray tasks that share the work; 1 is this process, without Ray.")
    ] = 1,
    address: AddressOption = None,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Make one data set outside any sweep, and show its card. What is in the store is not made again."""
    from orchestrator import datasets
    from orchestrator.planning.sweep_file import load_data
    from orchestrator.storage.stores import open_store
    from trainers import InputError

    wanted, stored = load_data(spec, tuple(settings or ())).pinned(), open_store(store)
    build = None
    if workers > 1 or address:
        if device != "auto":
            raise InputError("--device is for this process; Ray gives each of its workers what it asks for")
        if not address:
            _make_private_token(_console())
        from functools import partial

        from orchestrator.execution.ray.build import build_data

        build = partial(build_data, workers=workers, address=address)
    datasets.make(wanted, stored, _console(), build, device)


@app.command()
def show(
    key: KeyArgument,
    store: StoreOption = STORE,
    picture: Annotated[
        Path | None,
        typer.Option(help="Where to draw it. [default: STORE/pictures/NAME.png]", show_default=False),
    ] = None,
) -> None:
    """Show a data set's card: what changed and by how much, how it was made. Draws its picture."""
    from orchestrator import datasets
    from orchestrator.storage.stores import open_store

    stored = open_store(store)
    datasets.show(stored.find(key), stored, _console(), picture=picture)


@app.command()
def export(
    key: KeyArgument,
    to: Annotated[
        Path, typer.Option(help="The folder to write into; what is there is kept.", show_default=False)
    ],
    format: Annotated[ExportForm, typer.Option(help="What to write.")] = ExportForm.image_folder,
    store: StoreOption = STORE,
) -> None:
    """Write a data set for others, without loss: PNG files, Parquet, npz, or a Hugging Face folder.

    image_folder is read by torchvision's ImageFolder, parquet and hf by Hugging Face's datasets, npz by
    numpy. A test split may be written into the same folder. What is there is never overwritten.
    """
    from orchestrator import datasets
    from orchestrator.storage.stores import open_store

    stored = open_store(store)
    datasets.give(stored.find(key), stored, _console(), form=format.value, to=to)


@app.command(name="import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="An array of noise or of poisoned images (.npy, .npz, .pt), or a folder of poisoned images "
            "named as the clean ones or by their rows.",
            show_default=False,
        ),
    ],
    clean: Annotated[
        str,
        typer.Option(help="The clean images that it goes on: a source, or YAML such as {source: cifar10}."),
    ] = SOURCE,
    application: Annotated[
        HowApplied, typer.Option(help="How float noise is rounded: as here, or as released code does it.")
    ] = HowApplied.signed,
    eps: Annotated[
        str | None,
        typer.Option(
            help="The budget it should keep, such as 8/255; exceeding it is told.", show_default=False
        ),
    ] = None,
    store: StoreOption = STORE,
) -> None:
    """Take in a poison that somebody else made, checked against the clean images.

    It is stored, and from then on a poison like any other: the last line says how a sweep names it. Arrays
    are noise (floats in -1..1, whole numbers in levels of 1/255), one per image, one per class or one for
    all, or the poisoned images (uint8); nothing is read that needs pickle.
    """
    from orchestrator import datasets
    from orchestrator.planning.sweep_file import load_source
    from orchestrator.storage.stores import open_store
    from trainers.spec import parse_eps

    stored = open_store(store)
    datasets.take(
        path,
        load_source(clean).pinned(),
        stored,
        _console(),
        application=application.value,
        eps=None if eps is None else parse_eps(eps, "--eps"),
    )


@cache.command(name="ls")
def cache_list(store: StoreOption = STORE) -> None:
    """List the data sets of the store, and who needs them."""
    from orchestrator import datasets
    from orchestrator.storage.stores import open_store

    datasets.listed(open_store(store), _console())


@cache.command(name="show")
def cache_show(key: KeyArgument, store: StoreOption = STORE) -> None:
    """The same as opsctl show."""
    show(key, store)


@cache.command(name="verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="Only this data set.", show_default=False)] = None,
    store: StoreOption = STORE,
) -> None:
    """Read every byte of the data sets, every result and every heartbeat, and compare. Exit code 0: all as
    written; 1: something is damaged."""
    from orchestrator import datasets
    from orchestrator.storage.stores import open_store

    opened, console = open_store(store), _console()
    whole = datasets.verified(opened, console, key)
    if key is None:
        whole &= datasets.verified_ledger(opened, console)
    raise typer.Exit(0 if whole else 1)


@cache.command(name="gc")
def cache_gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Remove kept weights too: a probe that is added later then trains these trials again.",
        ),
    ] = False,
    store: StoreOption = STORE,
) -> None:
    """Remove what nobody needs: it says what and why, and asks.

    What a trial of the ledger or a running sweep names is never removed, nor what that was made from; nor
    are kept weights, without --weights.
    """
    from orchestrator import datasets
    from orchestrator.storage.stores import open_store

    datasets.tidied(open_store(store), _console(), lambda: yes or _agreed(), weights=weights)


def _agreed() -> bool:
    """Whether the person at the terminal says yes; where there is none, no."""
    return sys.stdin.isatty() and typer.confirm("remove all of this?")


@app.command()
def kinds(
    family: Annotated[str | None, typer.Argument(help="Only this family.", show_default=False)] = None,
) -> None:
    """List all that a sweep can name (poisons, architectures, ...), with fields and defaults."""
    from orchestrator.kinds import tables

    console = _console()
    for table in tables(family):
        console.print(table)
        console.print()


@app.command()
def ui(
    store: StoreOption = STORE,
    tracking_uri: UriOption = None,
    host: UiHostOption = "127.0.0.1",
    port: UiPortOption = 5000,
    allowed_hosts: AllowedHostsOption = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the first link in the browser: the sweep that ran last.")
    ] = False,
) -> None:
    """Start the MLflow UI on the store's database, and print a link to each sweep's table of trials. Ctrl-C
    ends it.

    If --tracking-uri is a server (http://...), its UI is there already: the links are printed, nothing is
    started.
    """
    from orchestrator.storage.storage import local_folder
    from orchestrator.tracking.database import DATABASE, is_server
    from trainers import InputError

    database = local_folder(store) / DATABASE
    if tracking_uri is None and not database.exists():
        raise InputError(f"there is no {database} yet: run a sweep first, or name a --tracking-uri")
    console = _console()
    uri = tracking_uri or f"sqlite:///{database}"
    if is_server(uri):
        _show_links(uri, uri, console, open_browser=open_browser)
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
    """Run MLflow's server until it is stopped; its exit code, 0 if it was we who stopped it."""
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
                _warn(console, warning)
            if not mlflow_server.is_loopback(host):
                _warn(
                    console,
                    f"everyone who reaches port {port} of this machine may read and write what is there",
                )
            if there:
                address = mlflow_server.address(host, port, allowed)
                console.say(
                    f"MLflow is at {address} (Ctrl-C ends it); each sweep is an experiment, each trial a run"
                )
                _show_links(uri, address, console, open_browser=open_browser)
            while server.poll() is None and not stop.wait(0.2):
                pass
        finally:
            code = mlflow_server.end(server)
    return 0 if stop.is_set() else code


@app.command()
def doctor(store: StoreOption = STORE) -> None:
    """Look at what this machine has and lacks: versions, devices, disk, store, data sets."""
    from orchestrator.doctor import findings

    console, colours = _console(), {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings(store):
        console.say((f"{finding.state:<8}", colours[finding.state]), f" {finding.what:<16} {finding.says}")


def main() -> None:
    """The `opsctl` command. A user's mistake is one message and exit code 2, what the machine or the numbers
    would not do is one message and exit code 1; never a traceback."""
    sys.excepthook = _show_traceback
    try:
        app()
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        from trainers.redaction import shown

        code = _exit_code(error)
        if code is None:
            raise
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(shown(error) or type(error).__name__, err=True)
        sys.exit(code)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, without what must not be shown."""
    from trainers.redaction import shown

    typer.echo(shown("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)


def _exit_code(error: Exception) -> int | None:
    """How to end for it; None for a mistake of ours, which is shown whole."""
    from orchestrator.report import ReportError
    from orchestrator.storage.storage import DepotError
    from poisons.durable import StoreError
    from trainers import InputError
    from trainers.loop import DivergenceError, OutOfMemoryError

    if isinstance(error, InputError | StoreError | DepotError | ReportError):
        return 2
    return 1 if isinstance(error, OSError | DivergenceError | OutOfMemoryError) else None


def _console() -> Terminal:
    from orchestrator.terminal import Terminal

    return Terminal()


def _plan(
    file: Path, store: str, settings: list[str] | None, *, retry: Collection[str] = ()
) -> tuple[Plan, Store]:
    from orchestrator.terminal import Terminal

    with Terminal(stderr=True).status("reading the sweep and the store"):
        from orchestrator.planning.plan import make_plan
        from orchestrator.planning.snapshot import version_of
        from orchestrator.planning.sweep_file import load
        from orchestrator.storage.ledger import Ledger
        from orchestrator.storage.stores import open_store

        version = version_of(file, settings or ()) or ""
        spec = load(file, tuple(settings or ()))
        stored = open_store(store)
        todo = make_plan(spec, stored, str(file), version=version, retry=retry)
        with suppress(OSError):  # on a full disk: then status plans the sweep as well
            todo.outline.keep(Ledger(stored.where).depot, version)
        return todo, stored


def _each(files: list[Path], make: Callable[[Path], Made]) -> tuple[list[Made], list[str]]:
    """What is made of each sweep file, and why nothing can be made of the others; of one that is alone, or if
    it is all of them, InputError."""
    made, wrong = [], []
    for file in files:
        try:
            made.append(make(file))
        except ValueError as error:
            from trainers import InputError  # here: a look at sweeps that are well is instant

            if len(files) == 1 or not isinstance(error, InputError):
                raise
            wrong.append(str(error) if str(file) in str(error) else f"{file}: {error}")
    if not made:
        raise InputError("\n".join(wrong))
    return made, wrong


def _tell_left_out(wrong: list[str]) -> None:
    """InputError if any of several sweeps is left out."""
    if wrong:
        from trainers import InputError

        raise InputError("left out: " + "; ".join(wrong))


def _outline(file: Path, store: str, settings: list[str] | None) -> tuple[Outline, Ledger, str]:
    """A sweep as it was last planned, or as it is planned now; its ledger; the version of its text."""
    from orchestrator.planning.snapshot import kept_outline, version_of

    ledger, version = _ledger(store), version_of(file, settings or ())
    outline = kept_outline(ledger.depot, version) if version else None
    if outline is None:
        todo, _ = _plan(file, store, settings)
        outline, version = todo.outline, todo.version
    return outline, ledger, version or ""


def _ledger(store: str) -> Ledger:
    """The ledger of a store that is only looked at, without the time that it takes to open the store."""
    from orchestrator.storage.ledger import Ledger
    from orchestrator.storage.storage import DepotError

    try:
        return Ledger(store)
    except DepotError as error:
        from trainers import InputError

        raise InputError(str(error)) from None


def _name(file: Path, store: str) -> str:
    """The name of the sweep in a file; of one that was planned, without the time to read it."""
    from orchestrator.planning.snapshot import kept_outline, version_of

    version = version_of(file)
    outline = kept_outline(_ledger(store).depot, version) if version else None
    if outline is not None:
        return outline.name
    from orchestrator.planning.sweep_file import load

    return load(file).name


def _standing(todo: Plan, stored: Store) -> Standing:
    from orchestrator.monitoring.sweep_status import look
    from orchestrator.storage.ledger import Ledger

    return look(todo.outline, Ledger(stored.where))


def _show_plan(
    todo: Plan,
    stored: Store,
    console: Terminal,
    *,
    tflops: float | None = None,
    slots: int | None = None,
) -> None:
    from orchestrator.estimates.estimate import estimate_on_this_machine, lines
    from orchestrator.estimates.kept_weights import choose_kept_weights
    from orchestrator.estimates.plan_table import plan_table
    from orchestrator.planning.caveats import remarks, source_remarks, warnings

    console.say((todo.sweep.name, "bold"), f": {todo.sweep.question}")
    with console.status("reckoning what it costs"):
        cost = estimate_on_this_machine(todo, stored, tflops=tflops, slots=slots) if todo.missing else None
    if todo.data:
        console.print(plan_table(todo, cost.data if cost else {}))
    console.say(f"{todo.work}, {todo.finished} trials already done, {len(todo.tasks)} in all")
    for remark in (*remarks(todo), *choose_kept_weights(todo, stored).lines(), *source_remarks([todo])):
        console.say(remark)
    for warning in warnings(todo):
        _warn(console, warning)
    if todo.failed or todo.stopped:
        console.say(
            f"{len(todo.failed)} trials failed before and are left as they are (see opsctl retry), "
            f"{len(todo.stopped)} were stopped early"
        )
    for line in lines(cost) if cost else ():
        console.say(line)


def _show_union(
    plans: list[Plan], stored: Store, console: Terminal, *, tflops: float | None, slots: int | None
) -> None:
    from orchestrator.estimates.estimate import estimate_on_this_machine, lines
    from orchestrator.estimates.kept_weights import choose_kept_weights, together
    from orchestrator.estimates.plan_table import plan_table
    from orchestrator.planning.batch import Union
    from orchestrator.planning.caveats import lacking_probes, source_remarks, warnings

    union = Union(tuple(plans))
    for todo in plans:
        console.say((todo.sweep.name, "bold"), f": {union.of(todo)}")
    with console.status("reckoning what it costs"):
        runs = sum(bool(todo.missing) for todo in plans)
        cost = estimate_on_this_machine(union.whole, stored, tflops=tflops, slots=slots, sweeps=runs)
    if union.whole.data:
        console.print(plan_table(union.whole, cost.data if cost else {}))
    weights = together([choose_kept_weights(todo, stored) for todo in plans])
    said = (*source_remarks(plans), *union.lines(), *lacking_probes(union.whole), *weights)
    for line in (*said, *(lines(cost) if cost else ())):
        console.say(line)
    for todo in plans:
        for warning in warnings(todo):
            _warn(console, f"{todo.sweep.name}: {warning}")


def _tracker(uri: str | None, todo: Plan, stored: Store, console: Terminal) -> Tracker | None:
    """The tracker, and a warning if its store does not answer, which must not cost the sweep anything: then
    it is not attached yet. None if it never can be."""
    from trainers import InputError

    with console.status("opening MLflow"):
        from orchestrator import tracking

        tracker = tracking.Tracker(uri or tracking.default_uri(stored.root), todo, stored, attach=False)
        try:
            tracker.attach()
        except tracking.TROUBLE as error:
            silent = tracker.connection.silent(error)
            _warn(console, f"{silent}; the sweep goes on, and MLflow gets what it missed when it answers")
        except InputError as error:
            _warn(console, f"{error}; the sweep goes on without it, see `opsctl track --help`")
            return None
    for warning in tracker.connection.warnings:
        _warn(console, warning)
    return tracker


def _run_options(
    max_concurrent: int | None, gpus_per_trial: str | None, cpus_per_trial: float | None
) -> list[str]:
    """The options of `opsctl sweep` that are fields of a sweep's `run`, as settings."""
    run = {
        "run.max_concurrent": max_concurrent,
        "run.gpus_per_trial": gpus_per_trial,
        "run.cpus_per_trial": cpus_per_trial,
    }
    return [f"{path}={value}" for path, value in run.items() if value is not None]


def _sweep(
    todo: Plan,
    stored: Store,
    file: Path,
    tracking_uri: str | None,
    address: str | None,
    tracking_wait: float,
    *,
    dry_run: bool,
    retry: Collection[str] = (),
) -> None:
    """Run a plan and print its report; failures of the trials to `retry` are forgotten once it is certain
    that it can run."""
    console = _console()
    if dry_run:
        _show_plan(todo, stored, console)
        return
    if address is None and todo.missing:
        _check_this_machine(todo)
        _make_private_token(console)
    tracker = _tracker(tracking_uri, todo, stored, console)
    live = _live(tracker, tracking_wait, console) if tracker is not None and todo.missing else None
    code = _run(todo, stored, live, address, file, console, retry) if todo.missing else 0
    if tracker is not None:
        _check_tracked(live.complete if live is not None else _synced(tracker), file, stored, console)
    _print_report([_sheet(_standing(todo, stored), file)], Format.table, console)
    if todo.failed:
        _warn(
            console,
            f"{len(todo.failed)} trials failed before and are left as they are; "
            f"opsctl retry {file} --store {stored.where} runs them again",
        )
    if tracker is not None:
        _show_link(tracker, stored, console)
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
    from orchestrator import display
    from orchestrator.monitoring.observer import Audience

    view: Observer = display.Screen(console) if console.is_terminal else display.Lines(console)
    observers = [view] if live is None else [view, live]
    from orchestrator.execution.ray.run import run_plan

    outcome = run_plan(todo, stored, Audience(*observers), address=address, retry=retry)
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


def _make_private_token(console: Terminal) -> None:
    """Before Ray is started on this machine, and makes one that others could read."""
    from orchestrator.cluster.token import make_private_token

    if warning := make_private_token():
        _warn(console, warning)


def _warn(console: Terminal, message: str) -> None:
    console.say(("warning:", "yellow"), f" {message}")


def _live(tracker: Tracker, patience: float, console: Terminal) -> LiveTracker:
    from orchestrator.tracking import LiveTracker

    return LiveTracker(tracker, lambda message: _warn(console, message), patience=patience)


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
        _warn(console, f"MLflow lacks some results; send them later with: {again}")


def _show_link(tracker: Tracker, stored: Store, console: Terminal) -> None:
    """Where the sweep's table is in the MLflow UI, and how to start that where no server runs for certain."""
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


def _show_links(uri: str, server: str, console: Terminal, *, open_browser: bool) -> None:
    """The tables of all sweeps that an MLflow store knows, in the UI at `server`."""
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
        console.say("no sweep is there yet")
        return
    width = max(len(link.experiment) for link in found)
    for link in found:
        console.say(f"  {link.experiment:<{width}}  {link.url}")
    if open_browser:
        import webbrowser

        if not webbrowser.open(found[0].url):
            _warn(console, "no browser can be opened from here; open the link in yours")


def _sheet(standing: Standing, file: Path) -> Sheet:
    """A sweep's report; where no published figures are found, which is no reason to fail, it says so."""
    from orchestrator.report import make_sheet

    return make_sheet(standing, file, strict=False)


def _print_report(sheets: list[Sheet], format: Format, console: Terminal, *, brief: bool = False) -> None:
    """Print reports one after the other; JSON of several is a list. `brief`: of the terminal's only the
    table."""
    from orchestrator import report as reports
    from trainers.redaction import redacted

    if format is Format.table:
        for sheet in sheets:
            _show_sheet(sheet, console, brief=brief)
    elif format is Format.svg:
        if len(sheets) > 1:
            raise reports.ReportError(
                "an SVG is the picture of one table: name one sweep file, or use --html"
            )
        from orchestrator.tables import picture

        typer.echo(redacted(picture(sheets[0])), nl=False)
    else:
        write = {
            Format.md: lambda: redacted("\n".join(map(reports.sheet_markdown, sheets))),
            Format.latex: lambda: redacted("\n".join(map(reports.latex, sheets))),
            Format.csv: lambda: reports.comma_separated(*sheets),
            Format.trials_csv: lambda: reports.trials_csv(*sheets),
            Format.json: lambda: redacted(reports.as_json(sheets)),
        }[format]
        typer.echo(write(), nl=False)


def _show_sheet(sheet: Sheet, console: Terminal, *, brief: bool) -> None:
    from orchestrator.report.ranking import best_cells
    from orchestrator.tables import below, legend, rich_table

    console.print(rich_table(sheet.table))
    if told := legend(sheet.table):
        console.print(told, soft_wrap=True)
    for line in best_cells(sheet.standing):
        console.say(line)
    if brief:
        return
    for table in sheet.probes:
        console.print(rich_table(table))
    for told in below(sheet):
        console.print(told, soft_wrap=True)
