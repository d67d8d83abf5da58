"""A Ray cluster of hosts with networks of their own, whose cables can be pulled and whose power can be cut."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from tests.chaos.cluster import PATIENCE, RAY
from tests.chaos.yard import Yard
from tests.cluster.hosts import Hosts
from tests.conftest import ROOT

SETTINGS = {
    **PATIENCE,
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "d" * 64,
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_health_check_initial_delay_ms": "2000",  # a machine that is out of reach is noticed within seconds,
    "RAY_health_check_period_ms": "1000",  # not within a minute
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
HEAD, WORKERS = "head", ("one", "two")


class Host:
    """A host, as a machine of a cluster."""

    def __init__(self, hosts: Hosts, name: str) -> None:
        self.hosts, self.name = hosts, name

    def inside(self) -> list[psutil.Process]:
        """Its processes, except the first and its ssh server, which keep it up."""
        first = self.hosts.pid_of(self.name)
        space = os.readlink(f"/proc/{first}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != first and os.readlink(f"/proc/{process.pid}/ns/pid") == space:
                    found.append(process)
        return found


class Spaces:
    """The cluster of three hosts, which see `shared` as /mnt and the yard, which lies where they have nothing
    of their own; from `with` to its end. `folder` is for their keys and logs."""

    def __init__(self, folder: Path, shared: Path, yard: Yard) -> None:
        self.hosts = Hosts(HEAD, *WORKERS, folder=folder, shared=shared)
        self.head = Host(self.hosts, HEAD)
        self.workers = [Host(self.hosts, name) for name in WORKERS]
        self.address = f"{self.hosts.address[HEAD]}:6379"
        self.options = {"OPSCTL_ADDRESS": self.address}
        own = ("TMPDIR", "RAY_TMPDIR")  # each host has a /tmp
        self.settings = SETTINGS | {name: value for name, value in yard.env.items() if name not in own}
        self._off: list[Host] = []

    def __enter__(self) -> Self:
        self.hosts.__enter__()
        try:
            self._begin()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self.hosts.__exit__(None, None, None)

    def add(self) -> None:
        """Boot the host whose power was cut."""
        host = self._off.pop()
        self.hosts.boot(host.name)
        self._join(host)
        self.workers.append(host)

    def drop(self, machine: Host) -> None:
        self.workers.remove(machine)
        self.hosts.kill(machine.name)
        self._off.append(machine)

    def restart(self) -> None:
        """Restart Ray only: the hosts stay up."""
        for machine in (self.head, *self.workers):
            self.on(machine.name, RAY, "stop", "--force")
        self._begin()

    def drive(self, words: Sequence[str], options: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.chaos.driver", *words]
        line = self._shell(command, COLUMNS="200", **self.options, **options)
        with log.open("ab") as file:
            return subprocess.Popen(
                self.hosts.entering(HEAD, line),
                env=self.hosts.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def cut(self, machine: Host) -> bool:
        self.hosts.cut(machine.name)
        return True

    def mend(self, machine: Host) -> None:
        self.hosts.mend(machine.name)

    def rejoin(self, machine: Host) -> None:
        self.on(machine.name, RAY, "stop", "--force")
        self._join(machine)

    def on(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, from outside its network."""
        return self.hosts.run(name, self._shell(command), seconds=120)

    def temporary(self) -> list[str]:
        """Temporary files that drivers have left on the head."""
        return self.on(HEAD, "sh", "-c", "find /tmp/opsctl-* -mindepth 1").stdout.split()

    def _begin(self) -> None:
        self._start(HEAD, "--head", "--num-cpus=0", "--port=6379", "--include-dashboard=false")
        for machine in self.workers:
            self._join(machine)

    def _join(self, machine: Host) -> None:
        self._start(machine.name, "--num-cpus=1", f"--address={self.address}")

    def _start(self, name: str, *options: str) -> None:
        """Start Ray on a host. It gives up after half a minute, which a busy machine may take."""
        words = [RAY, "start", *options, "--object-store-memory=80000000", "--disable-usage-stats"]
        for _ in range(3):
            if (done := self.on(name, *words)).returncode == 0:
                return
            self.on(name, RAY, "stop", "--force")
        raise AssertionError(done.stdout + done.stderr)

    def _shell(self, command: Sequence[str], **settings: str) -> str:
        """A command line for a host's shell."""
        assignments = (f"{name}={value}" for name, value in {**self.settings, **settings}.items())
        return f"cd {ROOT} && exec env {shlex.join([*assignments, *command])}"
