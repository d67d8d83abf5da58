"""The MLflow server as a separate process: its UI on a database, and the requests that it accepts."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.tracking.artifacts import FOLDER, folder_beside
from orchestrator.tracking.database import is_server, with_driver
from trainers import InputError

HOST, PORT = "127.0.0.1", 5000  # where the UI listens by default
EVERY_HOST = ("0.0.0.0", "::")
# ports above 1023 that browsers refuse to open (https://fetch.spec.whatwg.org/#port-blocking)
BLOCKED_PORTS = {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670)}
BLOCKED_PORTS |= {6679, 6697, 10080}
END_SECONDS = 10.0  # how long a server may take to end after SIGTERM
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SETTINGS = {
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",  # overrides the user's environment
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",  # they would run code that a client sends
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
}


def check(uri: str, *, host: str, port: int, allowed: Sequence[str] = ()) -> list[str]:
    """The values of the Host header that the server accepts. Raises InputError if `uri`, `port` or `allowed`
    is invalid."""
    if is_server(uri):
        raise InputError(f"{uri} is already a server: open it in a browser")
    if port in BLOCKED_PORTS:
        raise InputError(f"browsers refuse to open port {port}; choose another with --port")
    hosts = served(host, port, allowed)
    with suppress(OSError), socket.create_connection((host, port), timeout=2):
        raise InputError(f"port {port} of {host} is in use; choose another with --port")
    return hosts


def serve(uri: str, *, host: str, port: int, allowed: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start the MLflow server and its UI on a database. Raises InputError if `uri`, `port` or `allowed` is
    invalid.

    It accepts requests to the hosts in `allowed` (default: `host` itself, and the names of loopback), and no
    cross-origin requests. It has one worker: with MLflow's default of four, every request waits 40 ms. It
    ends with this process, even if that is killed; `end` ends it earlier.
    """
    hosts = check(uri, host=host, port=port, allowed=allowed)
    options = {
        "--artifacts-destination": str(folder_beside(uri) or Path(FOLDER).absolute()),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
        "--allowed-hosts": ",".join(hosts),
        "--cors-allowed-origins": ",".join(
            f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")
        ),
        "--x-frame-options": "SAMEORIGIN",
    }
    arguments = [part for option in options.items() for part in option]
    # in the environment: other users can list command lines, and the address may hold a password
    environment = {**os.environ, **SETTINGS, "MLFLOW_BACKEND_STORE_URI": with_driver(uri)}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.tracking.tethered", "mlflow", "server", *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def end(server: subprocess.Popen[bytes]) -> int:
    """End the server and its child processes. Returns its exit code."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(END_SECONDS)
    if server.stdin is not None:
        server.stdin.close()
    return server.wait()


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can be reached from this machine only."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def served(host: str, port: int, allowed: Sequence[str]) -> list[str]:
    """The values of the Host header that are accepted. Raises InputError if `allowed` is a bare wildcard, or
    is missing although `host` requires it."""
    names = [name for entry in allowed for name in entry.replace(" ", "").split(",") if name]
    if any(not name.strip("*") for name in names):
        raise InputError("--allowed-hosts: '*' would accept any host name; list the names instead")
    if is_loopback(host):
        names = [*LOOPBACK, *names]
    elif not names and host in EVERY_HOST:
        raise InputError(
            f"--host {host} accepts connections from other machines: list the names by which they reach this "
            "one, such as --allowed-hosts box.example.org,10.0.0.5"
        )
    else:
        names = [_bracketed(host), *names] if host not in EVERY_HOST else names
    with_ports = [name if _has_port(name) else f"{name}:{port}" for name in names]
    return list(dict.fromkeys([*names, *with_ports]))


def address(host: str, port: int, allowed: Sequence[str] = ()) -> str:
    """The URL of a UI that listens there. If it listens on all interfaces, the first allowed name is used."""
    names = [name for entry in allowed for name in entry.replace(" ", "").split(",") if "*" not in name]
    name = next(filter(None, names), None) if host in EVERY_HOST else None
    place = name or _bracketed(host)
    return f"http://{place}" if _has_port(place) else f"http://{place}:{port}"


def usual_address() -> str:
    """The address of `opsctl ui` when it is run without options."""
    host, port = os.environ.get("OPSCTL_UI_HOST") or HOST, os.environ.get("OPSCTL_UI_PORT", "")
    allowed = os.environ.get("OPSCTL_UI_ALLOWED_HOSTS", "").split()
    return address(host, int(port) if port.isdecimal() else PORT, allowed)


def answers(server: subprocess.Popen[bytes], host: str, port: int, stop: threading.Event) -> bool:
    """Wait until the server answers; False if it ended, or `stop` was set."""
    address = f"http://{_bracketed(host)}:{port}/health"
    while server.poll() is None and not stop.wait(0.2):
        with suppress(OSError), urllib.request.urlopen(address, timeout=2) as reply:
            return bool(reply.status == 200)
    return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and not name.endswith("]")
