"""A report as LaTeX: booktabs tables, with published figures on a line of their own below ours.

The document needs `\\usepackage{booktabs}`, for a table with a summary `\\usepackage[table]{xcolor}` too, and
an engine that reads UTF-8.
"""

from __future__ import annotations

import re

from orchestrator.report import lines
from orchestrator.report.colours import mixed
from orchestrator.report.comparison import Comparison, Difference
from orchestrator.report.sheet import Sheet
from orchestrator.report.table import Cell, Table
from orchestrator.report.warning import warning_lines
from orchestrator.report.wording import caption, number, published, source, text
from trainers.printable import printable

SPELT = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    "±": r"\ensuremath{\pm}",
    "≠": r"\ensuremath{\neq}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "×": r"\ensuremath{\times}",
    "∞": r"\ensuremath{\infty}",
    "ℓ": r"\ensuremath{\ell}",
    "ε": r"\ensuremath{\varepsilon}",
    "−": r"\ensuremath{-}",
    "–": "--",
    "²": r"\ensuremath{^2}",
    **{char: f"\\{char}" for char in "&%$#_"},
}
LIGATURES = frozenset(("--", "''", "``", ",,", "?`", "!`"))  # character pairs that LaTeX merges into one


def latex(sheet: Sheet) -> str:
    """The tables, their comparisons, claims and warnings, for `\\input` in a document."""
    parts = [*map(table_latex, sheet.tables), *(_compared(sheet.table, one) for one in sheet.comparisons)]
    if sheet.claims:
        parts.append(_list([line for one in sheet.claims for line in lines.claim(one)]))
    if sheet.warnings:
        parts.append(_list(warning_lines(sheet.warnings)))
    return "\n".join(parts)


def table_latex(table: Table) -> str:
    """The table alone, as a float with caption and label."""
    head = [" / ".join(table.row_axes) or "sweep", *table.columns]
    body = []
    for row in table.rows:
        cells = [table.cells.get((row, column)) for column in table.columns]
        body.append([row, *(_value(table, row, column) for column in table.columns)])
        if any(cell is not None and cell.published for cell in cells):
            body.append(["", *(_published(cell) for cell in cells)])
    details = "; ".join([caption(table), *([source(table) or ""] if source(table) else [])])
    label = ":".join(["tab", table.name, *([table.probe] if table.probe is not None else [])])
    return _float(f"{table.question} {details}.", label, head, body)


class _Marked(str):
    """The value of a matrix, in bold if it is the `best` of its column, on a colour if it has one."""

    best: bool
    colour: str | None


def _value(table: Table, row: str, column: str) -> str:
    value, share = _Marked(text(table, row, column)), table.shade(row, column)
    value.best, value.colour = row in table.best(column), None if share is None else mixed(share)
    return value


def escaped(words: str) -> str:
    """Text escaped for LaTeX, in one paragraph: a blank line would end an argument such as a caption. Control
    characters, which LaTeX rejects, are spelt out."""
    line = "".join(char for char in " ".join(printable(words).split()) if char.isprintable())
    apart = ("{}" if line[i : i + 2] in LIGATURES else "" for i in range(len(line)))
    return "".join(SPELT.get(char, char) + gap for char, gap in zip(line, apart, strict=True))


def _float(title: str, label: str, head: list[str], body: list[list[str]]) -> str:
    output = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escaped(title)}}}",
        f"\\label{{{re.sub(r'[^A-Za-z0-9:.-]', '-', label)}}}",
        r"\smallskip",  # the usual classes leave no room below a caption
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _row(head),
        r"\midrule",
        *(_row(cells) for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(output) + "\n"


def _row(cells: list[str]) -> str:
    """A line of a table, with minus signs for hyphens. Braces around a leading `[` or `*` keep LaTeX from
    parsing it as an option of the line before."""
    texts = [escaped(re.sub(r"(?<!\w)-(?=\d)", "−", cell)) for cell in cells]
    texts = [
        _marked(t, cell) if isinstance(cell, _Marked) else t for t, cell in zip(texts, cells, strict=True)
    ]
    return " & ".join(f"{{{cell}}}" if cell.startswith(("[", "*")) else cell for cell in texts) + r" \\"


def _marked(value: str, cell: _Marked) -> str:
    shown = rf"\textbf{{{value}}}" if cell.best else value
    return shown if cell.colour is None else rf"\cellcolor[HTML]{{{cell.colour}}}{shown}"


def _published(cell: Cell | None) -> str:
    return f"({published(cell)})" if cell is not None and cell.published else ""


def _compared(table: Table, one: Comparison) -> str:
    head = [" / ".join(table.row_axes) or "sweep", f"{one.second} minus {one.first}", "95 %", "p", "pairs"]
    rows = [*one.rows, *([one.overall] if one.overall else [])]
    title = (
        f"{table.name}: {one.second} minus {one.first}, seed by seed: mean, 95 % interval by Student's t, "
        "p of flipped signs."
    )
    label = f"tab:{table.name}:{one.first}:{one.second}"
    return _float(title, label, head, [_difference(row) for row in rows])


def _difference(one: Difference) -> list[str]:
    name = "over rows" if one.row is None else one.row
    if one.mean is None:
        return [name, "-", "-", "-", "0"]
    ends = [number(end, one.unit, signed=True) for end in one.interval or ()]
    mean = number(one.mean, one.unit, signed=True)
    return [name, mean, " to ".join(ends) or "-", f"{one.p:.2g}", str(one.pairs)]


def _list(texts: list[str]) -> str:
    """Lines as a list. An indented line continues the item before it."""
    items = [
        f"\\item {{}}{escaped(line)}" if line[0] != " " else f"\\\\ {{}}{escaped(line)}" for line in texts
    ]
    return "\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]) + "\n"
