"""The typer application that commands are added to, and its top-level help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

Function = TypeVar("Function", bound=Callable[..., Any])


class App(typer.Typer):
    """A typer application that ignores single line breaks in docstrings. Typer itself prints them in its list
    of commands and after the first paragraph of a command's help, and so breaks lines twice."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        def add(function: Function) -> Function:
            paragraphs = (inspect.getdoc(function) or "").split("\n\n")
            text = "\n\n".join(_without_line_breaks(paragraph) for paragraph in paragraphs)
            return super(App, self).command(name, help=text, **options)(function)

        return add


def _without_line_breaks(paragraph: str) -> str:
    """A paragraph as one line; an indented example stays as it is."""
    return paragraph if paragraph.startswith(" ") else paragraph.replace("\n", " ")


app = App(
    name="opsctl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Sweeps over [bold]unlearnable examples[/]: "
        "make poisoned data sets, train on them, and report what protects the data."
        "\n\n"
        "Start with [cyan]opsctl sweep sweeps/quickstart.yaml[/]. A finished trial is never run twice: "
        "run the same command again to continue where it stopped."
    ),
)


cache = App(no_args_is_help=True, help="List, show, verify and remove the data sets of a store.")


app.add_typer(cache, name="cache")


def _version(requested: bool) -> None:
    if requested:
        from trainers.provenance import opsctl_version

        typer.echo(f"opsctl {opsctl_version() or 'of an unknown version'}")
        raise typer.Exit


@app.callback()
def opsctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...
