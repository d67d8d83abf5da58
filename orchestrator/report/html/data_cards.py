"""The data sets of a page's sweeps as records of the document: their cards, and pictures of some."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from orchestrator.report.html.records import DataRecord
from poisons import DataSpec, Store
from poisons.durable import StoreError
from poisons.exchange.card import card
from poisons.exchange.stored_picture import picture_of
from trainers import InputError

PICTURES = 16  # at most, on a page
PLACES = ("made", "with", "file")  # lines of a card that name a machine or a path; left out


def data_records(names: Iterable[str], store: Store) -> list[DataRecord]:
    """The data sets of these names that the store has: clean ones first, each poison in the order given.
    Those that differ only in their seed share one picture."""
    records = store.records()
    known = {name: records[name] for name in dict.fromkeys(names) if name in records}
    drawn_once: set[str] = set()
    return [_data_record(name, record, store, drawn_once) for name, record in known.items()]


def _data_record(name: str, record: Mapping[str, Any], store: Store, drawn_once: set[str]) -> DataRecord:
    spec = record["spec"]
    poisons = [poison["kind"] for poison in spec["poison"]]
    alike = repr({field: value for field, value in spec.items() if field != "seed"})
    picture, why = None, "drawn for another seed"
    if alike not in drawn_once:
        picture, why = _picture(spec, store) if len(drawn_once) < PICTURES else (None, "too many to draw")
        drawn_once.add(alike)
    return {
        "name": name,
        "key": record["key"],
        "title": f"{spec['source']['kind']}, {' + '.join(poisons)}",
        "split": spec["split"],
        "images": record["images"],
        "card": [list(line) for line in card(record) if line[0] not in PLACES],
        "seconds": record.get("seconds"),
        "time": record.get("environment", {}).get("time"),
        "picture": picture,
        "no_picture": why,
    }


def _picture(spec: Mapping[str, Any], store: Store) -> tuple[str | None, str]:
    """A picture as a data URL, or None and the reason."""
    try:
        return _small(picture_of(DataSpec.parse(spec, "data set"), store)), ""
    except (InputError, StoreError, OSError) as error:
        return None, str(error)


def _small(png: bytes) -> str:
    """The same picture as a smaller, lossless WebP."""
    sink = io.BytesIO()
    Image.open(io.BytesIO(png)).save(sink, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
