"""`opsctl sweep`, begun again when it is killed, as the head of a cluster runs it:
`python -m orchestrator.cluster.supervisor NAME FILE --store STORE ...`.

Imports nothing heavy, so that it is not what a machine without memory kills.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from orchestrator.cluster.host import stoppable
from orchestrator.storage.heartbeats import Driver, live_heartbeats, remove_dead
from orchestrator.storage.process import machine
from orchestrator.storage.records import Heartbeat
from orchestrator.storage.storage import Storage, open_storage

OWN = (0, 1, 2, 130)  # exit codes that a sweep gives itself
STOPPED = 130
TRIES = 5  # in a row that brought nothing
PAUSE_SECONDS = 10.0  # after the first of these; doubled after each
LOOK_SECONDS = 0.5
RESULTS = re.compile(r"/(result|failure|stopped|look-\w+)\.json$")


class Standin:
    """A heartbeat of this process while the sweep has none: `opsctl stop` finds it, and sets `asked`."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.asked = threading.Event()
        self._shown = ExitStack()
        self._mark: str | None = None

    def appear(self, left: Heartbeat | None) -> None:
        """Be there, in the place of a sweep that was killed and `left` this heartbeat; also heed what that
        was asked."""
        if self._mark is not None:
            return
        needs, snapshot = (left.get("needs", ()), left.get("outline")) if left is not None else ((), "")
        with suppress(OSError):  # a store that is away for a while: the sweep has a say in that
            driver = self._shown.enter_context(
                Driver(self.storage, self.name, self.asked, needs=needs, snapshot=snapshot)
            )
            self._mark = driver.id
            if left is not None:
                self._heed(left["id"])
            remove_dead(self.storage)

    def leave(self) -> None:
        """Be gone, but for what was asked just now."""
        if self._mark is not None:
            with suppress(OSError):
                self._heed(self._mark)
            self._shown.close()
            self._mark = None

    def _heed(self, heartbeat: str) -> None:
        if self.storage.read(f"drivers/{heartbeat}.stop") is not None:
            self.asked.set()


class Supervisor:
    """Runs `command`, the sweep called `name` with its results in `storage`, until it ends by itself."""

    def __init__(self, storage: Storage, name: str, command: Sequence[str]) -> None:
        self.storage, self.command = storage, command
        self.signalled = threading.Event()  # whoever does it tells the sweep as well, as Ray does
        self._standin = Standin(storage, name)
        self._left: Heartbeat | None = None  # the last heartbeat that the sweep had

    def run(self) -> int:
        """The exit code that the sweep gave itself; or, if it was killed TRIES times in a row without a
        result or a data set more, 128 and the number of the signal."""
        with stoppable(self.signalled):
            try:
                return self._run()
            finally:
                self._standin.leave()

    def _run(self) -> int:
        fruitless, pause, before = 0, 0.0, self._progress()
        while (code := self._try(pause)) not in OWN:
            if self.signalled.is_set():
                return STOPPED
            now = self._progress()
            fruitless, before = (fruitless + 1 if now == before else 0), now
            if fruitless == TRIES:
                _say(f"{_how(code)} {TRIES} times in a row, and nothing was done meanwhile: given up")
                break
            pause = PAUSE_SECONDS * 2**fruitless
            _say(f"{_how(code)}; it begins again in {pause:g} s")
        return code

    def _try(self, pause: float) -> int:
        """Run the sweep once, after a pause; how it ended. STOPPED if it was to stop before it began."""
        self._standin.appear(self._left)
        if self._told(pause):
            return STOPPED
        process = subprocess.Popen(self.command)
        if not self._begun(process):
            process.terminate()
            process.wait()
            return STOPPED
        code = process.wait()
        if code not in OWN:
            self._standin.appear(self._left)
        return code if code >= 0 else 128 - code

    def _begun(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the sweep has a heartbeat of its own, or has ended; False if it is to stop before
        that."""
        asked = self._standin.asked
        while process.poll() is None:
            marked = self._marked(process.pid)
            if asked.wait(LOOK_SECONDS):
                return False
            if marked:  # for a moment both were there: who asks has seen the one or the other
                self._standin.leave()
                return not asked.is_set()
        return True

    def _told(self, seconds: float) -> bool:
        """Let so much time pass; whether somebody said stop."""
        end = time.monotonic() + seconds
        while not (said := self._standin.asked.is_set() or self.signalled.is_set()):
            if (left := end - time.monotonic()) <= 0:
                break
            self._standin.asked.wait(min(LOOK_SECONDS, left))
        return said

    def _marked(self, pid: int) -> bool:
        """Whether the sweep that this process runs has a heartbeat; it is remembered."""
        with suppress(OSError):
            for heartbeat in live_heartbeats(self.storage):
                if heartbeat["pid"] == pid and heartbeat["machine"] == machine():
                    self._left = heartbeat
                    return True
        return False

    def _progress(self) -> tuple[int, int] | None:
        """What grows as a sweep goes on; None if the store does not answer."""
        with suppress(OSError):
            found = sum(RESULTS.search(name) is not None for name in self.storage.files("trials"))
            return found, len(self.storage.holders("data", "record.json"))
        return None


def main(name: str, *arguments: str) -> int:
    """Run `opsctl sweep` with these arguments, `--store` among them; its exit code."""
    store = arguments[arguments.index("--store") + 1]
    command = [sys.executable, "-m", "orchestrator", "sweep", *arguments]
    return Supervisor(open_storage(store), name, command).run()


def _how(code: int) -> str:
    if code <= 128:
        return f"the sweep ended with exit code {code}"
    with suppress(ValueError):
        return f"the sweep was killed by {signal.Signals(code - 128).name}"
    return f"the sweep was killed by signal {code - 128}"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
