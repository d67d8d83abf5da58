"""The command line in a process of its own: how it ended, what it printed, how long it took and how much memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT


@dataclass(frozen=True)
class Ended:
    words: tuple[str, ...]
    code: int | None  # None: it took too long, and was killed
    printed: str
    seconds: float
    cpu_seconds: float  # of it and of what it started and waited for
    megabytes: float  # of it, or of a process that it started and waited for: whichever took most


class Server:
    """Forks commands from a process that has imported them: see server.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fuzz.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def apply(self, name: str, root: Path) -> None:
        """Call a function of base.py on a store."""
        with tempfile.NamedTemporaryFile() as file:
            assert self.ask(name, root=str(root), output=file.name)["code"] == 0, file.read().decode()

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


class Command:
    """`opsctl WORDS`, running, with these variables in its environment."""

    def __init__(self, server: Server, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.server, self.words, self.begun = server, tuple(words), time.monotonic()
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self.output = Path(file.name)
        started = server.ask("start", words=self.words, environment=environment, output=file.name)
        self.pid = started["pid"]

    def printed(self) -> str:
        """What it has printed so far."""
        return self.output.read_bytes().decode(errors="replace")

    def wait(self, seconds: float) -> Ended:
        """Wait for its end; it is killed after so many seconds."""
        ended = self.server.ask("wait", pid=self.pid, seconds=seconds)
        text = self.printed()
        self.output.unlink()
        return Ended(
            self.words,
            ended["code"],
            text,
            time.monotonic() - self.begun,
            ended["cpu_seconds"],
            ended["megabytes"],
        )

    def end(self, seconds: float) -> Ended:
        """Press Ctrl-C, as a user does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        return self.wait(seconds)
