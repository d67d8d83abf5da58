"""The commands that work on data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import app, cache
from orchestrator.cli.loading import console_of
from orchestrator.cli.options import (
    SOURCE,
    STORE,
    AddressOption,
    ExportForm,
    HowApplied,
    KeyArgument,
    StoreOption,
)
from orchestrator.cli.running import make_private_token


@app.command()
def poison(
    spec: Annotated[
        str,
        typer.Argument(
            help="A poison by name (ops), YAML ({source: cifar10, poison: \\[em, ops]}), or a YAML file.",
            show_default=False,
        ),
    ],
    store: StoreOption = STORE,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a setting of the data set: source=cifar10, poison.pixels=2. Repeatable.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Number of Ray tasks that share the work; 1 runs in this process, without Ray."
        ),
    ] = 1,
    address: AddressOption = None,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Build one data set outside any sweep and show its card. A data set that is already in the store is not
    built again."""
    from orchestrator.cli import data_actions
    from orchestrator.planning.sweep_file import load_data
    from orchestrator.storage.stores import open_store
    from trainers import InputError

    wanted, stored = load_data(spec, tuple(settings or ())).pinned(), open_store(store)
    build = None
    if workers > 1 or address:
        if device != "auto":
            raise InputError(
                "--device applies to this process only; with --workers or --address, Ray assigns devices"
            )
        if not address:
            make_private_token(console_of())
        from functools import partial

        from orchestrator.execution.ray.build_task import build_data

        build = partial(build_data, workers=workers, address=address)
    data_actions.make(wanted, stored, console_of(), build, device)


@app.command()
def show(
    key: KeyArgument,
    store: StoreOption = STORE,
    picture: Annotated[
        Path | None,
        typer.Option(help="File of the picture.", show_default="STORE/pictures/NAME.png"),
    ] = None,
) -> None:
    """Show a data set's card (what changed, by how much, and how it was made) and draw its picture."""
    from orchestrator.cli import data_actions
    from orchestrator.storage.stores import open_store

    stored = open_store(store)
    data_actions.show(stored.find(key), stored, console_of(), picture=picture)


@app.command()
def export(
    key: KeyArgument,
    to: Annotated[Path, typer.Option(help="The output folder; existing files are kept.", show_default=False)],
    format: Annotated[ExportForm, typer.Option(help="Output format.")] = ExportForm.image_folder,
    store: StoreOption = STORE,
) -> None:
    """Export a data set without loss: PNG files, Parquet, npz, or a Hugging Face folder.

    Torchvision's ImageFolder reads image_folder, Hugging Face's datasets reads parquet and hf, and numpy
    reads npz. A test split may be written into the same folder. Existing files are never overwritten.
    """
    from orchestrator.cli import data_actions
    from orchestrator.storage.stores import open_store

    stored = open_store(store)
    data_actions.give(stored.find(key), stored, console_of(), form=format.value, to=to)


@app.command(name="import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="An array of noise or of poisoned images (.npy, .npz, .pt), or a folder of poisoned images "
            "named like the clean ones or by their row numbers.",
            show_default=False,
        ),
    ],
    clean: Annotated[
        str,
        typer.Option(
            help="The clean images that it belongs to: a source, or YAML such as {source: cifar10}."
        ),
    ] = SOURCE,
    application: Annotated[
        HowApplied,
        typer.Option(help="How float noise is rounded: as opsctl does, or as the released code does."),
    ] = HowApplied.signed,
    eps: Annotated[
        str | None,
        typer.Option(
            help="The budget it should stay in, such as 8/255; exceeding it gives a warning.",
            show_default=False,
        ),
    ] = None,
    store: StoreOption = STORE,
) -> None:
    """Import a poison made elsewhere, after checking it against the clean images.

    It is stored, and can then be used like any other poison: the last line of the output shows how to name
    it in a sweep. An array holds either noise (floats in -1..1, or integers in levels of 1/255), one per
    image, one per class or one for all images, or the poisoned images (uint8, or floats in 0..1). Files that
    need pickle are rejected.
    """
    from orchestrator.cli import data_actions
    from orchestrator.planning.sweep_file import load_source
    from orchestrator.storage.stores import open_store
    from trainers.spec import parse_eps

    stored = open_store(store)
    data_actions.take(
        path,
        load_source(clean).pinned(),
        stored,
        console_of(),
        application=application.value,
        eps=None if eps is None else parse_eps(eps, "--eps"),
    )


@cache.command(name="ls")
def cache_list(store: StoreOption = STORE) -> None:
    """List the data sets of the store, and what needs them."""
    from orchestrator.cli import data_actions
    from orchestrator.storage.stores import open_store

    data_actions.list_all(open_store(store), console_of())


@cache.command(name="show")
def cache_show(key: KeyArgument, store: StoreOption = STORE) -> None:
    """The same as opsctl show."""
    show(key, store)


@cache.command(name="verify")
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="Only this data set.", show_default=False)] = None,
    store: StoreOption = STORE,
) -> None:
    """Read every byte of the data sets, every result and every heartbeat, and check them. Exit code 0:
    everything is intact; 1: something is damaged."""
    from orchestrator.cli import data_actions
    from orchestrator.storage.stores import open_store

    opened, console = open_store(store), console_of()
    whole = data_actions.verify(opened, console, key)
    if key is None:
        whole &= data_actions.verify_ledger(opened, console)
    raise typer.Exit(0 if whole else 1)


@cache.command(name="gc")
def cache_gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Remove kept weights too. A probe that is added later must then train these trials again.",
        ),
    ] = False,
    store: StoreOption = STORE,
) -> None:
    """Remove unused files, after listing them with the reason and asking for confirmation.

    Data sets that a recorded trial or a running sweep needs, and those that they were made from, are never
    removed. Kept weights are removed only with --weights.
    """
    from orchestrator.cli import data_actions
    from orchestrator.storage.stores import open_store

    data_actions.collect(open_store(store), console_of(), lambda: yes or _agreed(), weights=weights)


def _agreed() -> bool:
    """Ask for confirmation; False without a terminal."""
    return sys.stdin.isatty() and typer.confirm("remove all of this?")
