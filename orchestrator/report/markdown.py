"""A report as GitHub-flavoured Markdown."""

from __future__ import annotations

from orchestrator.report import lines
from orchestrator.report.comparison import Comparison, Difference
from orchestrator.report.sheet import Sheet
from orchestrator.report.table import Table
from orchestrator.report.warning import warning_lines
from orchestrator.report.wording import caption, number, published, source, text
from trainers.printable import as_markdown


def markdown(table: Table) -> str:
    """The table with its caption."""
    head = [" / ".join(table.row_axes) or "sweep", *table.columns]
    rows = [_row(head), _row(["---", *("---:" for _ in table.columns)])]
    for row in table.rows:
        rows.append(_line([as_markdown(row), *(_cell(table, row, column) for column in table.columns)]))
    details = [caption(table), *([source(table) or ""] if source(table) else [])]
    return (
        f"**{as_markdown(table.name)}**: {as_markdown(table.question)}\n\n"
        + "\n".join(rows)
        + f"\n\n{as_markdown('; '.join(details))}\n"
    )


def sheet_markdown(sheet: Sheet) -> str:
    """The tables, their comparisons, claims and warnings."""
    parts = [markdown(table) for table in sheet.tables]
    parts += [_compared(one) for one in sheet.comparisons]
    if sheet.claims:
        parts.append("".join(_list(lines.claim(one)) for one in sheet.claims))
    if sheet.warnings:
        parts.append(_list(warning_lines(sheet.warnings)))
    return "\n".join(parts)


def _compared(one: Comparison) -> str:
    head = ["", f"{one.second} minus {one.first}", "95 % (t)", "p (signs flipped)", "pairs"]
    rows = [_row(head), _row(["---", *("---:" for _ in head[1:])])]
    rows += [_difference(row) for row in (*one.rows, *([one.overall] if one.overall else []))]
    return "\n".join(rows) + "\n"


def _difference(one: Difference) -> str:
    name = "over rows" if one.row is None else one.row
    if one.mean is None:
        return _row([name, "-", "-", "-", "0"])
    ends = [number(end, one.unit, signed=True) for end in one.interval or ()]
    mean = number(one.mean, one.unit, signed=True)
    return _row([name, mean, " to ".join(ends) or "-", f"{one.p:.2g}", str(one.pairs)])


def _cell(table: Table, row: str, column: str) -> str:
    """A cell, escaped; in bold if it is the best of its column."""
    cell, found = table.cells.get((row, column)), as_markdown(text(table, row, column))
    beside = f" {as_markdown(f'({published(cell)})')}" if cell is not None and cell.published else ""
    return (f"**{found}**" if row in table.best(column) else found) + beside


def _row(cells: list[str]) -> str:
    return _line(list(map(as_markdown, cells)))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _list(texts: list[str]) -> str:
    """Lines as a list; indented lines become a nested list."""
    return "".join(f"{'  ' * line.startswith('  ')}- {as_markdown(line.strip())}\n" for line in texts)
