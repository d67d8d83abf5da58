"""Comma-separated values that pandas reads back exactly and that no spreadsheet runs as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from trainers.printable import printable
from trainers.redaction import redacted

# what spreadsheets take for the beginning of a formula: OWASP, "CSV Injection"; the wide forms too
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A header and rows; None is an empty cell, and numbers are written in full precision."""
    return "".join(_line(cells) for cells in (columns, *rows))


def neutralised(cell: object) -> object:
    """The cell, with an apostrophe before text that a spreadsheet would run as a formula, and with control
    characters spelt out and credentials hidden. Numbers, and text that is a plain number such as -0.5, stay
    as they are."""
    if not isinstance(cell, str):
        return cell
    text = printable(redacted(cell))
    begins = text.startswith(FORMULA) or text.lstrip().startswith(FORMULA)  # some readers trim cells
    return f"'{text}" if begins and not NUMBER.fullmatch(text.strip()) else text


def _line(cells: Sequence[object]) -> str:
    """Ends in a line feed alone; written with both characters, so that a cell with either is quoted."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(map(neutralised, cells))
    return line.getvalue().removesuffix("\r\n") + "\n"
