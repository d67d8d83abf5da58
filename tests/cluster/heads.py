"""A Ray head of its own, with a dashboard and a token, for tests that need no second machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
TOKEN = "a" * 64


@dataclass(frozen=True)
class Head:
    """The addresses of a head."""

    address: str  # host:port
    dashboard: str  # URL


@contextmanager
def ray_head(*, cpus: int) -> Iterator[Head]:
    """A running head; it and everything it started are stopped afterwards."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"--{name}={number}" for name, number in ports.items()]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets allow only short names
        options += [
            "--head",
            "--block",
            f"--num-cpus={cpus}",
            "--object-store-memory=80000000",
            f"--temp-dir={folder}",
        ]
        env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        env["PATH"] = f"{BIN}:{env['PATH']}"  # where a job finds its python
        with open(f"{folder}/start.log", "w") as log:
            start = [str(BIN / "ray"), "start", *options]
            process = subprocess.Popen(start, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(process, ports["dashboard-port"], Path(folder, "start.log"))
            yield Head(f"127.0.0.1:{ports['port']}", f"http://127.0.0.1:{ports['dashboard-port']}")
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports that are free at the moment."""
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return numbers


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"Ray did not start:\n{log.read_text()}")
