"""The MLflow server as a process of its own: its pages on a database, and whether it answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path

from trainers import InputError


def serve(uri: str, *, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start the MLflow server and its pages on a database. Raises InputError if `uri` or `port` will not do.

    It has one worker: with its default of four every request waits 40 ms.
    """
    if uri.startswith(("http://", "https://")):
        raise InputError(f"{uri} is a server already: open it in a browser")
    with suppress(OSError), socket.create_connection((host, port), timeout=2):
        raise InputError(f"port {port} of {host} is taken; choose another with --port")
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else Path("mlflow.db")
    options = {
        "--backend-store-uri": uri,
        "--artifacts-destination": str(database.absolute().parent / "mlartifacts"),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
    }
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    words = [word for option in options.items() for word in option]
    return subprocess.Popen([sys.executable, "-m", "mlflow", "server", *words], env=env)


def answers(server: subprocess.Popen[bytes], host: str, port: int, stop: threading.Event) -> bool:
    """Wait until the server answers; False if it ended, or was told to."""
    while server.poll() is None and not stop.wait(0.2):
        with suppress(OSError), urllib.request.urlopen(f"http://{host}:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    return False
