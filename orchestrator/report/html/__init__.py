"""Reports of sweeps as one HTML page, with figures, published numbers and pictures of the data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.report import Sheet
from orchestrator.report.html.document import document_of, load_document, save_document
from orchestrator.report.html.render import page_of
from poisons.durable import write_output

__all__ = ["document_of", "load_document", "page_of", "save_document", "write_page"]


def write_page(sheets: Sequence[Sheet], out: Path, store: str | None) -> None:
    """Write the page of these sheets. If `out` ends in `.json`, write its document instead, which
    `python -m orchestrator.report.html` renders. Histories and data sets are read from `store`. Raises
    OSError, and InputError if the store cannot be opened."""
    document = document_of(sheets, store)
    if out.suffix == ".json":
        save_document(document, out)
    else:
        write_output(out, page_of(document).encode())
