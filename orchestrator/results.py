"""The ledger: one folder per trial on disk. `result.json`, published whole, says that a trial is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from poisons.durable import write_whole

Record = dict[str, Any]


class Ledger:
    """Results and failures of trials under `<store>/trials/<key>/`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root) / "trials"

    def result(self, key: str) -> Record | None:
        """The record of a finished trial, or None."""
        return _read(self.root / key / "result.json")

    def failure(self, key: str) -> Record | None:
        """The record of a trial's last failure, or None; a finished trial has none."""
        return _read(self.root / key / "failure.json")

    def publish(self, key: str, record: Record) -> None:
        """Say that a trial is done. From here on it is, whatever dies."""
        folder = self.folder(key)
        write_whole(folder / "result.json", {"key": key, **record})
        (folder / "failure.json").unlink(missing_ok=True)

    def fail(self, key: str, record: Record) -> None:
        """Say why a trial is not done; counts the attempts."""
        before = self.failure(key)
        attempts = before["attempts"] + 1 if before else 1
        write_whole(self.folder(key) / "failure.json", {"key": key, "attempts": attempts, **record})

    def folder(self, key: str) -> Path:
        """The trial's own folder, made if need be."""
        folder = self.root / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _read(file: Path) -> Record | None:
    try:
        record = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None  # a file that is no JSON was damaged from outside: the trial runs again and replaces it
    return record if isinstance(record, dict) and "key" in record else None
