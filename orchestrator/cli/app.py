"""The application that commands join, and what `opsctl` alone says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


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
