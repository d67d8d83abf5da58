"""The command line in a process of its own, which is forked from this one and so has imported everything already:
how it ended, what it printed, how long it took and how much memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from orchestrator import cli
from tests.conftest import ROOT
from trainers.architectures.lenet import LeNet5
from trainers.flops import network_flops

PACKAGES = ("trainers", "poisons", "orchestrator")
SLOW = (
    "orchestrator.execution.ray",
    "orchestrator.tracking",
    "orchestrator.report.html.__main__",
    "orchestrator.__main__",
)
TRACEBACK = 70  # the exit code of a command that ended in one
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Ended:
    words: tuple[str, ...]
    code: int | None  # None: it took too long, and was killed
    printed: str
    seconds: float
    cpu_seconds: float  # of it and of what it started and waited for
    megabytes: float  # of it, or of a process that it started and waited for: whichever took most


def preload() -> None:
    """Import all that commands do, but for Ray and MLflow, so that a fork has it: a second less each."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not name.startswith(SLOW):
                import_module(name)
    network_flops(LeNet5(), shape=(3, 32, 32), num_classes=10)


class Command:
    """`opsctl WORDS`, running, with these variables in its environment."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.words, self.begun = tuple(words), time.monotonic()
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self.output = Path(file.name)
        self.pid = fork(lambda: _main(self.words, environment), self.output)

    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_bytes().decode(errors="replace")

    def wait(self, seconds: float) -> Ended:
        """Its end, which is brought about if it takes more than so many seconds from now."""
        code, usage = wait(self.pid, seconds)
        took, printed = time.monotonic() - self.begun, self.said()
        self.output.unlink()
        return Ended(self.words, code, printed, took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)

    def end(self, seconds: float) -> Ended:
        """Press Ctrl-C, as a user does."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        return self.wait(seconds)


def apart(act: Callable[[], None]) -> None:
    """Do something in a process of its own, so that this one starts no thread of PyTorch's or Arrow's: what is
    forked from a process has none of its threads, and would wait for them."""

    def work() -> int:
        act()
        return 0

    with tempfile.NamedTemporaryFile() as file:
        code, _ = wait(fork(work, Path(file.name)), 600)
        assert code == 0, file.read().decode()


def fork(act: Callable[[], int], output: Path) -> int:
    """The id of a process, the first of a group of its own, that does something and prints to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = TRACEBACK
    try:
        os.setsid()
        warnings.simplefilter("ignore")  # else each would be an error, as it is in tests
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), stream)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", errors="replace", buffering=1) for n in (1, 2))
        code = act()
    except BaseException:  # noqa: BLE001 - it shall never go on in the code of the process that it is a copy of
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> tuple[int | None, resource.struct_rusage]:
    """The exit code of a process, None if it had to be killed, and what it took."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(POLL_SECONDS)
    os.killpg(pid, signal.SIGKILL)
    _, _, usage = os.wait4(pid, 0)
    return None, usage


def _main(words: tuple[str, ...], environment: Mapping[str, str]) -> int:
    os.environ.update(environment)
    sys.argv = ["opsctl", *words]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
