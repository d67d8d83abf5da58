"""A Ray cluster of several nodes on this machine, each a process group that can be killed."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
WORKER = re.compile(r"^ray::(?!IDLE)")  # a process that runs something


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Node:
    """One `ray start --block`, with all it starts."""

    def __init__(self, options: list[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [RAY, "start", "--block", *options],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def inside(self) -> list[psutil.Process]:
        """Its processes, itself among them."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def named(self, word: str) -> list[psutil.Process]:
        return [process for process in self.inside() if word in told(process)]

    def workers(self) -> list[psutil.Process]:
        """Processes that run a lane, a builder or an actor."""
        return [process for process in self.inside() if WORKER.match(told(process))]

    def kill(self) -> None:
        """As if the plug were pulled: all at once, no farewell."""
        for process in self.inside():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait(30)


def told(process: psutil.Process) -> str:
    """A process's command line; Ray's workers say in it what they do."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class Nodes:
    """A head without processors of its own, where drivers and switchboards are, and some workers."""

    def __init__(self, workers: int, *, cpus: int = 1) -> None:
        self.port, self.cpus = free_port(), cpus
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.env = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        self.options = {**token, "OPSCTL_ADDRESS": f"127.0.0.1:{self.port}"}
        head = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        self.head = Node([*head, "--object-store-memory=100000000"], self.env)
        self._wait()
        self.workers: list[Node] = []
        for _ in range(workers):
            self.add()

    def add(self) -> None:
        """One more machine joins."""
        options = [f"--address=127.0.0.1:{self.port}", f"--num-cpus={self.cpus}"]
        self.workers.append(Node([*options, "--object-store-memory=100000000"], self.env))

    def drop(self, node: Node) -> None:
        """A machine is gone."""
        self.workers.remove(node)
        node.kill()

    def __iter__(self) -> Iterator[Node]:
        yield from (self.head, *self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in list(self):
            node.kill()

    def _wait(self) -> None:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError("Ray's head did not start")
