"""The commands on data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    pass


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
    from orchestrator.cli import datasets
    from orchestrator.planning.sweep_file import load_data
    from orchestrator.storage.stores import open_store
    from trainers import InputError

    wanted, stored = load_data(spec, tuple(settings or ())).pinned(), open_store(store)
    build = None
    if workers > 1 or address:
        if device != "auto":
            raise InputError("--device is for this process; Ray gives each of its workers what it asks for")
        if not address:
            make_private_token(console_of())
        from functools import partial

        from orchestrator.execution.ray.build import build_data

        build = partial(build_data, workers=workers, address=address)
    datasets.make(wanted, stored, console_of(), build, device)


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
    from orchestrator.cli import datasets
    from orchestrator.storage.stores import open_store

    stored = open_store(store)
    datasets.show(stored.find(key), stored, console_of(), picture=picture)


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
    from orchestrator.cli import datasets
    from orchestrator.storage.stores import open_store

    stored = open_store(store)
    datasets.give(stored.find(key), stored, console_of(), form=format.value, to=to)


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
    from orchestrator.cli import datasets
    from orchestrator.planning.sweep_file import load_source
    from orchestrator.storage.stores import open_store
    from trainers.spec import parse_eps

    stored = open_store(store)
    datasets.take(
        path,
        load_source(clean).pinned(),
        stored,
        console_of(),
        application=application.value,
        eps=None if eps is None else parse_eps(eps, "--eps"),
    )


@cache.command(name="ls")
def cache_list(store: StoreOption = STORE) -> None:
    """List the data sets of the store, and who needs them."""
    from orchestrator.cli import datasets
    from orchestrator.storage.stores import open_store

    datasets.list_all(open_store(store), console_of())


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
    from orchestrator.cli import datasets
    from orchestrator.storage.stores import open_store

    opened, console = open_store(store), console_of()
    whole = datasets.verify(opened, console, key)
    if key is None:
        whole &= datasets.verify_ledger(opened, console)
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
    from orchestrator.cli import datasets
    from orchestrator.storage.stores import open_store

    datasets.collect(open_store(store), console_of(), lambda: yes or _agreed(), weights=weights)


def _agreed() -> bool:
    """Whether the person at the terminal says yes; where there is none, no."""
    return sys.stdin.isatty() and typer.confirm("remove all of this?")
