"""The output of `opsctl report` in each of its formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import Format

if TYPE_CHECKING:
    from orchestrator.cli.terminal import Terminal
    from orchestrator.monitoring.sweep_status import SweepStatus
    from orchestrator.report import Sheet


def sheet_of(status: SweepStatus, file: Path) -> Sheet:
    """A sweep's report. Published figures that cannot be found become a note, not an error."""
    from orchestrator.report import make_sheet

    return make_sheet(status, file, strict=False)


def print_report(sheets: list[Sheet], format: Format, console: Terminal, *, brief: bool = False) -> None:
    """Print reports one after the other; JSON of several is a list. `brief`: in the terminal format, print
    only the table."""
    from orchestrator import report as reports
    from trainers.redaction import redacted

    if format is Format.table:
        for sheet in sheets:
            _show_sheet(sheet, console, brief=brief)
    elif format is Format.svg:
        if len(sheets) > 1:
            from trainers.errors import InputError

            raise InputError("an SVG shows a single table: name one sweep file, or use --html")
        from orchestrator.cli.tables import picture

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
    from orchestrator.cli.tables import FittedTable, below, legend
    from orchestrator.report.ranking import best_cells

    console.print(FittedTable(sheet.table))
    if text := legend(sheet.table):
        console.print(text, soft_wrap=True)
    for line in best_cells(sheet.status):
        console.say(line)
    if brief:
        return
    for table in sheet.probes:
        console.print(FittedTable(table))
    for text in below(sheet):
        console.print(text, soft_wrap=True)
