"""One warning of a report."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.report.table import Cell


@dataclass(frozen=True)
class SheetWarning:
    """One warning, in one line of text. It concerns a trial (`key` and `name`), a cell of the table (`row`
    and `column`), or the whole sweep if all of these are None."""

    kind: str  # one word, the first of its line: failed, stopped, missing, doubt, platform, note
    text: str
    key: str | None = None
    name: str | None = None
    row: str | None = None
    column: str | None = None

    @property
    def subject(self) -> str | None:
        """The trial or cell that the warning concerns; None for the whole sweep."""
        if self.key is not None:
            return self.name or self.key
        place = [label for label in (self.row, self.column) if label]
        return " / ".join(place) or None

    def concerns(self, cell: Cell) -> bool:
        """Whether the warning concerns this cell or one of its trials."""
        if self.key is not None:
            return self.key in cell.keys
        return (self.row, self.column) == (cell.row, cell.column)
