"""A folder with a store to damage, beside files that no command may touch."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path

from tests.fuzz import base
from tests.fuzz.process import Command, Ended, Server
from tests.orchestrator.sweeps import write

SECONDS = 5.0  # of processor time; of a clock, as many times as $OPSCTL_FUZZ_PATIENCE says
MEGABYTES = 1024.0
CODES = {0, 1, 2}
DATABASE = "mlflow.db"


class Bench:
    """A store in `original`, which `fresh` copies to `store`, where commands find it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.original = folder, folder / "store", folder / "original"
        self.inbox = folder / "inbox"  # for what a test imports
        self.file = write(folder, base.SWEEP)
        self.environment = {
            "HOME": str(folder / "home"),
            "OPSCTL_CACHE": str(folder / "home" / "cache"),
            "OPSCTL_STORE": str(self.store),
            "COLUMNS": "200",
        }
        self.ended: list[Ended] = []
        self.server = Server()
        (folder / "victim").mkdir()
        (folder / "victim" / "canary").write_text("whole")
        self.whole = self._beside()
        self.server.apply("make", self.original)
        self.fresh()
        self.every = self.values()  # of all trials
        self.run(["track", "SWEEP"], seconds=60)
        shutil.move(self.store / DATABASE, self.original)
        self.server.apply("add_other_files", self.original)
        self.fresh()
        self.published = self.values()  # of those that have ended well
        files = (file for file in self.original.rglob("*") if file.is_file() and file.name != DATABASE)
        self.names = sorted(str(file.relative_to(self.original)) for file in files)

    def fresh(self) -> None:
        """Restore the original store."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.original, self.store)

    def _beside(self) -> dict[str, str]:
        """The files outside the folders that commands may write to, with their digests."""
        ours = {"original", "store", "inbox", "home", "page", "out"}
        files = (f for f in self.folder.rglob("*") if f.relative_to(self.folder).parts[0] not in ours)
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}

    def command(self, words: Sequence[str]) -> Command:
        """Start a command; placeholders in its words are replaced by paths."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        places = {
            "SWEEP": str(self.file),
            "PAGE": str(self.folder / "page"),
            "FOLDER": str(self.folder / "out"),
        }
        return Command(self.server, [places.get(word, word) for word in words], self.environment)

    def run(self, words: Sequence[str], *, seconds: float = SECONDS) -> Ended:
        """Wait for a command and check its end. The limit is on CPU time, because the machine may be busy."""
        patience = float(os.environ.get("OPSCTL_FUZZ_PATIENCE", "6"))
        return self.check(self.command(words).wait(seconds * patience), seconds=seconds)

    def check(self, ended: Ended, *, seconds: float) -> Ended:
        """Check the promises that a command keeps for any input."""
        self.ended.append(ended)
        what = f"opsctl {' '.join(ended.words)}\n{ended.printed[-20_000:]}"
        assert ended.code is not None, f"did not end within {ended.seconds:.1f} s: {what}"
        assert ended.cpu_seconds < seconds, f"{ended.cpu_seconds:.1f} s of CPU time: {what}"
        assert ended.code in CODES, f"exit code {ended.code}: {what}"
        assert "Traceback" not in ended.printed, what
        assert not [c for c in ended.printed if ord(c) < 32 and c not in "\n\t\r"], (
            f"control character: {what}"
        )
        assert ended.megabytes < MEGABYTES, f"{ended.megabytes:.0f} MB: {what}"
        assert self._beside() == self.whole, f"something beside the store was touched: {what}"
        return ended

    def values(self) -> dict[str, str]:
        """The accuracies of trials in a report, by their keys."""
        ended = self.run(["report", "SWEEP", "--format", "trials.csv"])
        lines = ended.printed.splitlines(keepends=True)
        table = dropwhile(lambda line: "test/clean_acc" not in line, lines)  # warnings come before it
        rows = csv.DictReader(table)
        return {row["key"]: row["test/clean_acc"] for row in rows if row.get("test/clean_acc")}

    def summary(self) -> str:
        """The number of commands, and the worst of them."""
        slow = max(self.ended, key=lambda ended: ended.cpu_seconds)
        large = max(self.ended, key=lambda ended: ended.megabytes)
        return (
            f"{len(self.ended)} commands; the slowest took {slow.cpu_seconds:.1f} s ({' '.join(slow.words[:3])}), "
            f"the largest {large.megabytes:.0f} MB ({' '.join(large.words[:3])})"
        )
