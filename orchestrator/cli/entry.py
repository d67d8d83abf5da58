"""The `opsctl` command."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.app import app

if TYPE_CHECKING:
    from types import TracebackType


def main() -> None:
    """The `opsctl` command. A user error prints one message and exits with code 2; a failure of the machine
    or of the numbers prints one message and exits with code 1. Neither prints a traceback."""
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
    """Print a traceback as Python does, but with credentials hidden."""
    from trainers.redaction import shown

    typer.echo(shown("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)


def _exit_code(error: Exception) -> int | None:
    """The exit code for an error; None for a bug of ours, which is shown with its traceback."""
    from poisons.durable import StoreError
    from trainers import InputError
    from trainers.loop import DivergenceError, OutOfMemoryError

    if isinstance(error, InputError | StoreError):
        return 2
    return 1 if isinstance(error, OSError | DivergenceError | OutOfMemoryError) else None
