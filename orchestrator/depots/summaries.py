"""What the records of finished trials say but for their histories, read quickly: of thousands of files, a few
kilobytes each.

Imports nothing heavy, so that a look at a sweep is instant.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection

from orchestrator.depots.depot import Folder
from orchestrator.depots.results import Ledger, Record

HEAD = 8192  # bytes: more than a record has before its history, or all of it is read
HISTORY = b',\n "history": ['  # as the ledger writes it, last; in a nested mapping the line is indented more
END = b"]\n}"


def finished(ledger: Ledger, keys: Collection[str]) -> set[str]:
    """Which of these trials have a result that can be read. In a folder, where a file may be damaged, each is
    looked into: one that was cut off does not end as the ledger ends it."""
    if isinstance(ledger.depot, Folder):
        return set(summaries(ledger, keys))
    return ledger.done().intersection(keys)


def summaries(ledger: Ledger, keys: Collection[str]) -> dict[str, Record]:
    """The records of those of these trials that are finished, by key; of a folder without their histories."""
    if not isinstance(ledger.depot, Folder):
        return ledger.results(ledger.done().intersection(keys))
    found = {key: _summary(f"{ledger.depot.root}/trials/{key}/result.json") for key in keys}
    return {key: record for key, record in found.items() if record is not None}


def _summary(file: str) -> Record | None:
    try:
        record = json.loads(_short(file))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None  # there is none, or it was damaged from outside: the trial runs again and replaces it
    return record if isinstance(record, dict) and "key" in record else None


def _short(file: str) -> bytes:
    """A record without its history if it is laid out as the ledger does it, else all of the file."""
    with open(file, "rb", buffering=0) as stream:
        head = stream.read(HEAD)
        cut = head.find(HISTORY)
        if cut < 0:
            return head + stream.read()
        stream.seek(-len(END), os.SEEK_END)
        if stream.read() == END:
            return head[:cut] + b"}"
        stream.seek(0)
        return stream.read()
