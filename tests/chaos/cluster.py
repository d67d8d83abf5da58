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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from tests.chaos.memory import threshold
from tests.chaos.yard import Yard, command_line
from tests.conftest import ROOT

RAY = str(Path(sys.executable).with_name("ray"))
WORKER = re.compile(r"^ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent)")  # a process that runs code of opsctl
PATIENCE = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5"
}  # without the head, before a process gives up; not 60

MEMORY = "RAY_memory_usage_threshold"  # the share of memory in use above which Ray kills workers


class Machine(Protocol):
    """One machine of a cluster, with its processes."""

    def inside(self) -> list[psutil.Process]:
        """Its processes."""
        ...


class Cluster(Protocol):
    """Machines under Ray: a head without CPUs for Ray, where drivers run, and some workers. A context
    manager."""

    head: Machine
    workers: list[Any]
    options: dict[str, str]  # environment variables with which a command reaches it

    def add(self) -> None:
        """Add one machine."""
        ...

    def drop(self, machine: Any) -> None:
        """Remove a machine at once, without a shutdown."""
        ...

    def restart(self) -> None:
        """Stop Ray on all machines and start it again; the cluster is complete when this returns."""
        ...

    def drive(self, words: Sequence[str], options: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a driver on the head: `opsctl`, whose workers write a diary."""
        ...

    def cut(self, machine: Any) -> bool:
        """Pull a machine's network cable; False if there are none here."""
        ...

    def mend(self, machine: Any) -> None:
        """Reconnect it."""
        ...

    def rejoin(self, machine: Any) -> None:
        """Start Ray again on a machine that the cluster has given up."""
        ...


def named(machine: Machine, word: str) -> list[psutil.Process]:
    return [process for process in machine.inside() if word in command_line(process)]


def at_work(cluster: Cluster) -> list[psutil.Process]:
    """Processes of all machines that run a worker, a builder or an actor."""
    found = (process for machine in (cluster.head, *cluster.workers) for process in machine.inside())
    return [process for process in found if WORKER.match(command_line(process))]


def kill_all(processes: Sequence[psutil.Process]) -> bool:
    """Kill them; whether there were any."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return bool(processes)


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    return []


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def session(leader: int) -> list[psutil.Process]:
    """All processes of a session, including those whose parent is gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


class Node:
    """One `ray start --block`, with everything it starts."""

    def __init__(self, options: list[str], env: dict[str, str], log: Path) -> None:
        self.options, self.env, self.log = options, env, log
        self.start()

    def start(self) -> None:
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [RAY, "start", "--block", *self.options, "--object-store-memory=100000000"],
                env=self.env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the cluster knows it. Starting Ray sometimes fails and is retried."""
        for _ in range(3):
            while self.process.poll() is None:
                if "Ray runtime started" in self.log.read_text():
                    return
                time.sleep(0.1)
            output = self.log.read_text()
            self.kill()
            self.start()
        raise AssertionError(output)

    def inside(self) -> list[psutil.Process]:
        return session(self.process.pid)

    def kill(self) -> None:
        kill_all(self.inside())
        self.process.wait(30)


class Nodes:
    """A cluster whose machines are process groups."""

    def __init__(self, workers: int, yard: Yard) -> None:
        self.port, self.size, self.yard = free_port(), workers, yard
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.options = {**token, **PATIENCE, **yard.env, "OPSCTL_ADDRESS": f"127.0.0.1:{self.port}"}
        if (share := threshold()) is not None:
            self.options[MEMORY] = str(share)
        self.env = {**os.environ, **self.options, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        self.env["PYTHONUNBUFFERED"] = "1"  # logs are read as they grow
        self.workers: list[Node] = []

    def _begin(self) -> None:
        head = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
        self.head = self._node(head)
        self.head.wait()
        self.workers.clear()
        for _ in range(self.size):
            self.add()

    def add(self) -> None:
        self.workers.append(self._node([f"--address=127.0.0.1:{self.port}", "--num-cpus=1"]))

    def drop(self, machine: Node) -> None:
        self.workers.remove(machine)
        machine.kill()

    def restart(self) -> None:
        self.end()
        self._begin()
        for machine in self.workers:
            machine.wait()

    def drive(self, words: Sequence[str], options: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.driver", *words],
                env={**self.env, "COLUMNS": "200", **options},
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    def cut(self, machine: Node) -> bool:
        return False

    def mend(self, machine: Node) -> None: ...

    def rejoin(self, machine: Node) -> None: ...

    def __enter__(self) -> Self:
        try:
            self._begin()
            for machine in self.workers:
                machine.wait()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Switch it off."""
        for node in (self.head, *self.workers):
            node.kill()

    def _node(self, options: list[str]) -> Node:
        return Node(options, self.env, self.yard.folder / f"node-{secrets.token_hex(4)}.log")
