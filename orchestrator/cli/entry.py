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
    from poisons.durable import StoreError
    from trainers import InputError
    from trainers.loop import DivergenceError, OutOfMemoryError

    if isinstance(error, InputError | StoreError):
        return 2
    return 1 if isinstance(error, OSError | DivergenceError | OutOfMemoryError) else None
