"""Tables for a terminal or an SVG: a sweep's report, and what is running.

Imports only light modules, so that `opsctl status` starts instantly.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import console as rich_console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator import report
from orchestrator.cli import terminal
from orchestrator.monitoring.driver_status import Building, Running, elapsed
from orchestrator.report import lines
from orchestrator.report.colours import mixed
from orchestrator.report.wording import number
from trainers.probe_view import PERCENT
from trainers.redaction import shown

COLOURS = {True: "green", False: "yellow", None: "dim"}  # of a published figure: within two std or not
VERDICTS = {"holds": "green", "does not hold": "red", "not known yet": "yellow"}
ROWS = 20  # most rows of running work, to fit on a screen


def at_work(building: Sequence[Building], running: Sequence[Running]) -> RichTable:
    """The data sets being built and the trials running: at most `ROWS`, then the number of the others."""
    table = RichTable("running", "for", "epoch", "train acc", "test acc", box=None, padding=(0, 2, 0, 0))
    for data in building[:ROWS]:
        since = "" if data.seconds is None else elapsed(data.seconds)
        table.add_row(Text.assemble((data.name, "cyan"), f" {data.progress}"), since, "", "", "")
    for trial in running[: ROWS - min(ROWS, len(building))]:
        epoch = f"{'-' if trial.epoch is None else format(trial.epoch, '.0f')}/{trial.epochs}"
        accs = (
            "" if acc is None else f"{number(acc, PERCENT)} %" for acc in (trial.train_acc, trial.test_acc)
        )
        table.add_row(trial.name, elapsed(trial.seconds), epoch, *accs)
    more = len(building) + len(running) - ROWS
    if more > 0:
        table.add_row(Text(f"... and {more} more", "dim"))
    return table


@dataclass(frozen=True)
class FittedTable:
    """The report for a terminal: one table, or where that would cut words short, several below each other,
    each with as many of the columns as fit."""

    table: report.Table

    def __rich_console__(
        self, console: rich_console.Console, options: rich_console.ConsoleOptions
    ) -> rich_console.RenderResult:
        tables = [rich_table(self.table, part) for part in self._parts(console, options)]
        for one in tables[1:]:
            one.title = None
        for one in tables[:-1]:
            one.caption = None
        yield from tables

    def _parts(self, console: rich_console.Console, options: rich_console.ConsoleOptions) -> list[list[str]]:
        """The columns of each table, from left to right."""
        unlimited, parts = options.update(width=sys.maxsize), list[list[str]]()

        def size(*columns: str) -> Measurement:
            return Measurement.get(console, unlimited, rich_table(self.table, columns))

        if size(*self.table.columns).minimum <= options.max_width:
            return [list(self.table.columns)]
        for column in self.table.columns:
            if parts and size(*parts[-1], column).maximum <= options.max_width:
                parts[-1].append(column)
            else:
                parts.append([column])
        return parts


def rich_table(table: report.Table, columns: Sequence[str]) -> RichTable:
    """Some columns of the report for a terminal, with the published figures below ours."""
    title, caption = f"{table.name}: {table.question}", report.caption(table)
    rich = RichTable(title=title, caption=caption, title_justify="left")
    rich.add_column(" / ".join(table.row_axes) or "sweep")
    for column in columns:
        rich.add_column(column, justify="right")
    for row in table.rows:
        rich.add_row(row, *(_cell(table, row, column) for column in columns))
    return rich


def _cell(table: report.Table, row: str, column: str) -> Text:
    """Our result, in a matrix on a colour, in bold if it is the best of its column; on a second line the
    published figure, coloured by whether it agrees."""
    share = table.shade(row, column)
    style = "" if share is None else f"black on #{mixed(share)}"
    cell, shown = table.cells.get((row, column)), Text()
    shown.append(report.text(table, row, column), f"bold {style}" if row in table.best(column) else style)
    if cell is not None and cell.published is not None:
        shown.append("\n" + report.published(cell), COLOURS[cell.within])
    return shown


def legend(table: report.Table) -> Text | None:
    """An explanation of the second line of cells; None if no cell has one."""
    text = report.source(table, "below each")
    return None if text is None else Text(text, "dim")


def below(sheet: report.Sheet) -> Iterator[Text]:
    """The text below the table: comparisons, claims and warnings."""
    for comparison in sheet.comparisons:
        yield from map(Text, map(shown, lines.comparison(comparison)))
    for verdict in sheet.claims:
        first, *points = map(shown, lines.claim(verdict))
        yield Text.assemble((verdict.verdict, VERDICTS[verdict.verdict]), first.removeprefix(verdict.verdict))
        yield from (Text(point, "dim") for point in points)
    yield from warnings(sheet)


def warnings(sheet: report.Sheet) -> Iterator[Text]:
    """The warnings of a report, each with its kind in colour."""
    for line in map(shown, report.warning_lines(sheet.warnings)):
        kind, _, rest = line.partition(": ")
        yield Text.assemble((f"{kind}: ", "red" if kind == "failed" else "yellow"), rest)


def picture(sheet: report.Sheet) -> str:
    """The table and its warnings as an SVG image of a terminal. It uses a local font, so that it is
    self-contained."""
    table = sheet.table
    rich = rich_table(table, table.columns)
    console = terminal.recorder(terminal.recorder(500).measure(rich).maximum)
    console.print(*filter(None, (rich, legend(table), *warnings(sheet))), sep="\n")
    drawn = console.export_svg(title=shown(f"opsctl report {table.name}"))
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.S)
