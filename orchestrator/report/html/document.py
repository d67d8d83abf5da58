"""The document behind a page: everything that the page shows, as JSON. It can be kept beside the code, and
the page rendered again without the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.report import Sheet
from orchestrator.report.html.data_cards import data_records
from orchestrator.report.html.records import DocumentRecord
from orchestrator.report.html.trials import recipe, trial_records
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from orchestrator.storage.stores import open_store
from poisons.durable import write_output
from trainers import InputError
from trainers.redaction import redacted_data
from trainers.stored import MB, DamagedError, JsonFile

FORMAT = 2

Document = DocumentRecord


DOCUMENT = JsonFile[Document](DocumentRecord, limit=512 * MB)


def document_of(sheets: Sequence[Sheet], store: str | None = None) -> Document:
    """The document of these sheets. Histories of trials and data sets are read from `store`, a path or URL;
    without it the page has no learning curves and no data cards. Raises InputError if the store cannot be
    opened, or if a value cannot be shown."""
    ledger = Ledger(store) if store else None
    keys = {key for sheet in sheets for key in sheet.status.results}
    records = ledger.results(keys) if ledger else {}
    names = [
        name
        for sheet in sheets
        for entry in sheet.status.snapshot.entries
        if entry.key in sheet.status.results
        for name in sheet.status.results[entry.key].get("needs", ())
    ]
    document = {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "sweeps": [_sweep(sheet, records) for sheet in sheets],
        "data": data_records(names, open_store(store)) if store and names else [],
    }
    try:
        return DOCUMENT.read(_written(redacted_data(document)))
    except ValueError as error:  # DamagedError, or a number that JSON cannot represent
        raise InputError(f"the results of these sweeps cannot be shown on a page ({error})") from None


def save_document(document: Document, file: Path) -> None:
    """Write the document atomically. Raises OSError."""
    write_output(file, _written(document))


def load_document(file: Path) -> Document:
    """Read a saved document. Raises InputError if the file is not one."""
    try:
        if (document := DOCUMENT.read_file(file)) is not None:
            return document
        problem = "there is no such file"
    except (OSError, DamagedError) as error:
        problem = str(error)
    raise InputError(f"{file} is not the document of a report page ({problem})")


def _written(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _sweep(sheet: Sheet, records: dict[str, Result]) -> dict[str, object]:
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
        "unit": snapshot.unit(snapshot.metric),
        "views": {name: probe["view"] for name, probe in snapshot.probes.items()},
        "row_axes": snapshot.row_axes,
        "column_axis": snapshot.column_axis,
        "axes": [{"name": axis, "labels": list(labels)} for axis, labels in axes.items()],
        "report": sheet.as_json() | {"file": Path(sheet.file).name},
        "trials": trial_records(sheet.status, records),
        "recipe": recipe(record for record in known if record is not None),
    }
