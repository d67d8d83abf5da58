"""One warning of a report."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.report.table import Cell


@dataclass(frozen=True)
class SheetWarning:
    """One warning, in one line of text. It is about a trial (`key` and `name`), about a cell of the table
    (`row` and `column`), or about the sweep as a whole, when all of them are None."""

    kind: str  # one word, the first of its line: failed, stopped, missing, doubt, platform, note
    text: str
    key: str | None = None
    name: str | None = None
    row: str | None = None
    column: str | None = None

    @property
    def subject(self) -> str | None:
        """What it is about, in words; None for the sweep as a whole."""
        if self.key is not None:
            return self.name or self.key
        place = [label for label in (self.row, self.column) if label]
        return " / ".join(place) or None

    def concerns(self, cell: Cell) -> bool:
        """Whether it is about this cell, or about one of its trials."""
        if self.key is not None:
            return self.key in cell.keys
        return (self.row, self.column) == (cell.row, cell.column)
