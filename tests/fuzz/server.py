"""A process that forks commands: `python -m tests.fuzz.server`. It has imported all that commands import, except
Ray and MLflow, and nothing else, so that what a fork takes is what a command takes.

A request is a line of JSON, and so is its answer.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from orchestrator import cli
from tests.fuzz import base
from trainers.architectures.lenet import LeNet5
from trainers.flops import network_flops

ROOT = Path(__file__).parents[2]
PACKAGES = ("trainers", "poisons", "orchestrator")
SLOW = ("orchestrator.execution.ray", "orchestrator.tracking")
TRACEBACK = 70  # the exit code of a command that ended in one
POLL_SECONDS = 0.002
BASES = {"make": base.make, "add_other_files": base.add_other_files}


def main() -> None:
    preload()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Start a command, wait for one, or change a store, which may take ten minutes."""
    match request["do"]:
        case "start":
            words, environment = tuple(request["words"]), request["environment"]
            return {"pid": fork(lambda: _main(words, environment), Path(request["output"]))}
        case "wait":
            code, usage = wait(request["pid"], request["seconds"])
            cpu = usage.ru_utime + usage.ru_stime
            return {"code": code, "cpu_seconds": cpu, "megabytes": usage.ru_maxrss / 1024}
        case name:
            pid = fork(lambda: BASES[name](Path(request["root"])) or 0, Path(request["output"]))
            return {"code": wait(pid, 600)[0]}


def preload() -> None:
    """Import all that commands do, except for Ray and MLflow: that saves a second for each."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not name.startswith(SLOW) and not name.endswith("__main__"):
                import_module(name)
    network_flops(LeNet5(), shape=(3, 32, 32), num_classes=10)


def fork(act: Callable[[], int], output: Path) -> int:
    """Fork a process, in a process group of its own, that calls `act` and prints to a file; its id."""
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


if __name__ == "__main__":
    main()
