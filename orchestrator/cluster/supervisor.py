"""Runs `opsctl sweep` on the head of a cluster, and restarts it if it is killed:
`python -m orchestrator.cluster.supervisor NAME FILE --store STORE ...`.

Imports only light modules, so that a machine that runs out of memory kills the sweep and not the supervisor.
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
from orchestrator.storage.locations import open_storage
from orchestrator.storage.process import machine
from orchestrator.storage.records import Heartbeat
from orchestrator.storage.storage import Storage

OWN = (0, 1, 2, 130)  # exit codes of a sweep that ended by itself
STOPPED = 130
TRIES = 5  # attempts in a row without progress
PAUSE_SECONDS = 10.0  # the pause after the first of these; doubled after each
POLL_SECONDS = 0.5
RESULTS = re.compile(r"/(result|failure|stopped|look-\w+)\.json$")


class Standin:
    """A heartbeat of this process while the sweep has none, so that `opsctl stop` finds it. A request to stop
    sets `stop_requested`."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.stop_requested = threading.Event()
        self._shown = ExitStack()
        self._id: str | None = None

    def appear(self, left: Heartbeat | None) -> None:
        """Publish the heartbeat. `left` is that of a killed sweep, which it replaces; a request to stop that
        sweep counts too."""
        if self._id is not None:
            return
        needs, snapshot = (left.get("needs", ()), left.get("outline")) if left is not None else ((), "")
        starts = left.get("starts", ()) if left is not None else ()
        with suppress(OSError):  # the store may be unreachable for a while; the sweep handles that
            driver = self._shown.enter_context(
                Driver(
                    self.storage,
                    self.name,
                    self.stop_requested,
                    needs=needs,
                    starts=starts,
                    snapshot=snapshot,
                )
            )
            self._id = driver.id
            if left is not None:
                self._check_stop(left["id"])
            remove_dead(self.storage)

    def leave(self) -> None:
        """Remove the heartbeat, after a last check for a request to stop."""
        if self._id is not None:
            with suppress(OSError):
                self._check_stop(self._id)
            self._shown.close()
            self._id = None

    def _check_stop(self, heartbeat: str) -> None:
        if self.storage.read(f"drivers/{heartbeat}.stop") is not None:
            self.stop_requested.set()


class Supervisor:
    """Runs `command`, the sweep `name` with its results in `storage`, until it ends by itself."""

    def __init__(self, storage: Storage, name: str, command: Sequence[str]) -> None:
        self.storage, self.command = storage, command
        self.signalled = threading.Event()  # Ray signals the sweep as well
        self._standin = Standin(storage, name)
        self._left: Heartbeat | None = None  # the last heartbeat that the sweep had

    def run(self) -> int:
        """The exit code of the sweep; or 128 plus the number of the signal, if it was killed TRIES times in a
        row without a new result or data set."""
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
                _say(f"{_how(code)} {TRIES} times in a row without progress: giving up")
                break
            pause = PAUSE_SECONDS * 2**fruitless
            _say(f"{_how(code)}; it is restarted in {pause:g} s")
        return code

    def _try(self, pause: float) -> int:
        """Run the sweep once, after a pause; returns its exit code, or STOPPED if a stop was requested before
        it started."""
        self._standin.appear(self._left)
        if self._wait(pause):
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
        """Wait until the sweep has its own heartbeat, or has ended; False if a stop is requested before
        that."""
        requested = self._standin.stop_requested
        while process.poll() is None:
            found = self._has_heartbeat(process.pid)
            if requested.wait(POLL_SECONDS):
                return False
            if found:  # for a moment there are two heartbeats; a stop request may name either
                self._standin.leave()
                return not requested.is_set()
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait so many seconds; True, early, if a stop is requested."""
        end = time.monotonic() + seconds
        while not (stop := self._standin.stop_requested.is_set() or self.signalled.is_set()):
            if (left := end - time.monotonic()) <= 0:
                break
            self._standin.stop_requested.wait(min(POLL_SECONDS, left))
        return stop

    def _has_heartbeat(self, pid: int) -> bool:
        """Whether the sweep in the process `pid` has a heartbeat, which is kept in `_left`."""
        with suppress(OSError):
            for heartbeat in live_heartbeats(self.storage):
                if heartbeat["pid"] == pid and heartbeat["machine"] == machine():
                    self._left = heartbeat
                    return True
        return False

    def _progress(self) -> tuple[int, int] | None:
        """Counts that grow as a sweep progresses; None if the store does not answer."""
        with suppress(OSError):
            found = sum(RESULTS.search(name) is not None for name in self.storage.files("trials"))
            return found, len(self.storage.holders("data", "record.json"))
        return None


def main(name: str, *arguments: str) -> int:
    """Run `opsctl sweep` with these arguments, which must include `--store`; returns its exit code."""
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
