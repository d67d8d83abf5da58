"""Comma-separated values that pandas reads back exactly and no spreadsheet evaluates as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from trainers.printable import printable
from trainers.redaction import redacted

# what spreadsheets read as the start of a formula, full-width forms included: OWASP, "CSV Injection"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A header and rows; None becomes an empty cell, and numbers keep their full precision."""
    return "".join(_line(cells) for cells in (columns, *rows))


def neutralised(cell: object) -> object:
    """The cell, made safe: an apostrophe before text that a spreadsheet would evaluate as a formula, control
    characters spelt out, credentials hidden. Numbers, and text that is a plain number such as -0.5, are
    unchanged."""
    if not isinstance(cell, str):
        return cell
    text = printable(redacted(cell))
    begins = text.startswith(FORMULA) or text.lstrip().startswith(FORMULA)  # some readers trim cells
    return f"'{text}" if begins and not NUMBER.fullmatch(text.strip()) else text


def _line(cells: Sequence[object]) -> str:
    """One line, ending in a line feed only. The writer uses CRLF so that it quotes cells that contain either
    character."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(map(neutralised, cells))
    return line.getvalue().removesuffix("\r\n") + "\n"
