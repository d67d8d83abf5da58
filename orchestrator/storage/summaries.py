"""What the records of finished trials say but for their histories, and those of looks but for their curves,
read quickly: of thousands of files, a few kilobytes each.

Imports nothing heavy, so that looking at a sweep is instant.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from io import BufferedReader

from orchestrator.storage.ledger import Ledger, LookKeys, look_file
from orchestrator.storage.records import Record
from orchestrator.storage.storage import LARGEST, FolderStorage

HEAD = 8192  # bytes: more than a record has before its history, or all of it is read
HISTORY = b',\n "history": ['  # as the ledger writes it, last; in a nested mapping the line is indented more
END = b"]\n}"
CURVES = b',\n "curves": {'  # as the ledger writes it in what a look found, all of it in a line
CLOSE = b"}\n}"


def finished(ledger: Ledger, keys: Collection[str]) -> set[str]:
    """Which of these trials have a result that can be used: each is looked into, for it may be damaged."""
    return set(summaries(ledger, keys))


def summaries(ledger: Ledger, keys: Collection[str]) -> dict[str, Record]:
    """The records of those of these trials that are finished, by key; of a folder without their histories."""
    if not isinstance(ledger.storage, FolderStorage):
        return ledger.results(ledger.done().intersection(keys))
    found = {key: _head(ledger, f"trials/{key}/result.json", HISTORY, END) for key in keys}
    return {key: record for key, record in found.items() if record is not None}


def looked(ledger: Ledger, wanted: Mapping[str, LookKeys]) -> dict[str, set[str]]:
    """Which looks at these trials have found something, by name, that can be used."""
    return {key: set(found) for key, found in heads(ledger, wanted).items()}


def heads(ledger: Ledger, wanted: Mapping[str, LookKeys]) -> dict[str, dict[str, Record]]:
    """What looks at these trials found, by the trial's key and the look's name; of a folder without curves
    and fields."""
    if not isinstance(ledger.storage, FolderStorage):
        there = ledger.storage.files("trials") if any(wanted.values()) else {}
        return ledger.findings(
            {
                key: {n: k for n, k in looks.items() if look_file(key, k).removeprefix("trials/") in there}
                for key, looks in wanted.items()
            }
        )
    found = {
        key: {name: _head(ledger, look_file(key, look), CURVES, CLOSE) for name, look in looks.items()}
        for key, looks in wanted.items()
    }
    return {key: {n: one for n, one in looks.items() if one is not None} for key, looks in found.items()}


def _head(ledger: Ledger, name: str, last: bytes, end: bytes) -> Record | None:
    """A record of the ledger without what is long; None if there is none, or it is damaged."""
    assert isinstance(ledger.storage, FolderStorage)
    with ledger.storage.open(name) as file:
        if file is None:
            return None
        data, short = _short(file, last, end)
        return ledger.parsed(name, data, short=short)


def _short(stream: BufferedReader, last: bytes, end: bytes) -> tuple[bytes, bool]:
    """A record up to where it says `last`, if it is laid out as the ledger does it, else all of the file;
    whether it is cut short."""
    head = stream.read(HEAD)
    cut = head.find(last)
    if cut < 0:
        return head + stream.read(LARGEST), False
    stream.seek(-len(end), os.SEEK_END)
    if stream.read() == end:
        return head[:cut] + b"}", True
    stream.seek(0)
    return stream.read(LARGEST), False
