"""Records of finished trials without their histories, and of probes without their curves, read quickly: a few
kilobytes of each of thousands of files.

Imports nothing heavy, so that `status` is instant.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from io import BufferedReader

from orchestrator.storage.ledger import Ledger, ProbeKeys, finding_file
from orchestrator.storage.records import Record
from orchestrator.storage.storage import LARGEST, FolderStorage

HEAD = 8192  # bytes: more than a record has before its history, or all of it is read
HISTORY = b',\n "history": ['  # as the ledger writes it, last; in a nested mapping the line is indented more
END = b"]\n}"
CURVES = b',\n "curves": {'  # as the ledger writes it in a finding, all of it in a line
CLOSE = b"}\n}"


def finished(ledger: Ledger, keys: Collection[str]) -> set[str]:
    """Which of these trials have a usable result. Each is read, since it may be damaged."""
    return set(summaries(ledger, keys))


def summaries(ledger: Ledger, keys: Collection[str]) -> dict[str, Record]:
    """The records of those of these trials that are finished, by key; in a folder without their histories."""
    if not isinstance(ledger.storage, FolderStorage):
        return ledger.results(ledger.done().intersection(keys))
    found = {key: _head(ledger, f"trials/{key}/result.json", HISTORY, END) for key in keys}
    return {key: record for key, record in found.items() if record is not None}


def probes_done(ledger: Ledger, wanted: Mapping[str, ProbeKeys]) -> dict[str, set[str]]:
    """The probes of these trials that have a usable result, by name."""
    return {key: set(found) for key, found in heads(ledger, wanted).items()}


def heads(ledger: Ledger, wanted: Mapping[str, ProbeKeys]) -> dict[str, dict[str, Record]]:
    """The results of the probes of these trials, by the trial's key and the probe's name; in a folder
    without curves and fields."""
    if not isinstance(ledger.storage, FolderStorage):
        there = ledger.storage.files("trials") if any(wanted.values()) else {}
        return ledger.findings(
            {
                key: {
                    n: k for n, k in probes.items() if finding_file(key, k).removeprefix("trials/") in there
                }
                for key, probes in wanted.items()
            }
        )
    found = {
        key: {name: _head(ledger, finding_file(key, probe), CURVES, CLOSE) for name, probe in probes.items()}
        for key, probes in wanted.items()
    }
    return {key: {n: one for n, one in probes.items() if one is not None} for key, probes in found.items()}


def _head(ledger: Ledger, name: str, last: bytes, end: bytes) -> Record | None:
    """A record of the ledger without its long fields; None if there is none, or it is damaged."""
    assert isinstance(ledger.storage, FolderStorage)
    with ledger.storage.open(name) as file:
        if file is None:
            return None
        data, short = _short(file, last, end)
        return ledger.parsed(name, data, short=short)


def _short(stream: BufferedReader, last: bytes, end: bytes) -> tuple[bytes, bool]:
    """A record up to the field `last`, if it is laid out as the ledger writes it, or else the whole file;
    and whether it is cut short."""
    head = stream.read(HEAD)
    cut = head.find(last)
    if cut < 0:
        return head + stream.read(LARGEST), False
    stream.seek(-len(end), os.SEEK_END)
    if stream.read() == end:
        return head[:cut] + b"}", True
    stream.seek(0)
    return stream.read(LARGEST), False
