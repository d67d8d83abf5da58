"""The document behind a page: all that the page shows, as JSON, so that it can be kept beside the code and
the page made again without the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.report import Sheet
from orchestrator.report.html.data_cards import told_data
from orchestrator.report.html.records import DocumentRecord
from orchestrator.report.html.trials import recipe, told_trials
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Record
from orchestrator.storage.stores import open_store
from poisons.durable import write_output
from trainers import InputError
from trainers.redaction import redacted_data
from trainers.stored import MB, DamagedError, JsonFile

FORMAT = 1

Document = DocumentRecord


DOCUMENT = JsonFile[Document](DocumentRecord, limit=512 * MB)


def document_of(sheets: Sequence[Sheet], store: str | None = None) -> Document:
    """All that a page of these sheets shows. `store`, a path or URL, has the histories of their trials and
    the data sets; without it there are no learning curves and no cards. InputError if it cannot be opened,
    or if something cannot be shown."""
    ledger = Ledger(store) if store else None
    keys = {key for sheet in sheets for key in sheet.status.results}
    records = ledger.results(keys) if ledger else {}
    names = [
        name
        for sheet in sheets
        for entry in sheet.status.snapshot.entries
        for name in sheet.status.results.get(entry.key, {}).get("needs", ())
    ]
    document = {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "sweeps": [_sweep(sheet, records) for sheet in sheets],
        "data": told_data(names, open_store(store)) if store and names else [],
    }
    try:
        return DOCUMENT.read(_written(redacted_data(document)))
    except ValueError as error:  # DamagedError, or a number that JSON cannot say
        raise InputError(f"no page can show what these sweeps hold ({error})") from None


def save_document(document: Document, file: Path) -> None:
    """Write it, whole or not at all. Raises OSError."""
    write_output(file, _written(document))


def load_document(file: Path) -> Document:
    """A document as it was saved. InputError if the file is none."""
    try:
        if (document := DOCUMENT.read_file(file)) is not None:
            return document
        problem = "there is no such file"
    except (OSError, DamagedError) as error:
        problem = str(error)
    raise InputError(f"{file} is not the document of a page ({problem})")


def _written(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _sweep(sheet: Sheet, records: dict[str, Record]) -> dict[str, Any]:
    snapshot = sheet.status.snapshot
    axes: dict[str, dict[str, None]] = {}
    for entry in snapshot.entries:
        for axis, label in entry.labels.items():
            axes.setdefault(axis, {})[label] = None
    known = [records.get(entry.key) or sheet.status.results.get(entry.key) for entry in snapshot.entries]
    return {
        "name": snapshot.name,
        "question": snapshot.question,
        "file": Path(sheet.file).name,
        "metric": snapshot.metric,
        "row_axes": snapshot.row_axes,
        "column_axis": snapshot.column_axis,
        "axes": [{"name": axis, "labels": list(labels)} for axis, labels in axes.items()],
        "report": sheet.as_json() | {"file": Path(sheet.file).name},
        "trials": told_trials(sheet.status, records),
        "recipe": recipe(record for record in known if record is not None),
    }
