"""What can go wrong while a sweep runs, and how to bring it about."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.cluster import Nodes
from tests.conftest import ROOT


@dataclass
class Scene:
    """A sweep that runs somewhere, with all that can be broken about it."""

    file: Path
    store: Path
    nodes: Nodes
    options: dict[str, str]
    log: Path
    server: Callable[[], subprocess.Popen[str]]  # starts MLflow's
    driver: subprocess.Popen[bytes] | None = None
    mlflow: subprocess.Popen[str] | None = None
    done: Counter[str] = field(default_factory=Counter)  # faults by name

    def begin(self) -> None:
        """Start the driver, as a user does: the same command each time."""
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "sweep", str(self.file)],
            env={**os.environ, "OPSCTL_STORE": str(self.store), "COLUMNS": "200", **self.options},
            stdout=self.log.open("a"),
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )

    def serve(self) -> None:
        self.mlflow = self.server()

    def results(self) -> dict[str, int]:
        files = (self.store / "trials").glob("*/result.json")
        return {file.parent.name: file.stat().st_mtime_ns for file in files}


Fault = Callable[[Scene, random.Random], bool]  # False: there was nothing to break just now


def kill_worker(scene: Scene, chance: random.Random) -> bool:
    """A lane, a builder, or the switchboard."""
    found = [process for node in scene.nodes for process in node.workers()]
    if not found:
        return False
    with suppress(psutil.NoSuchProcess):
        chance.choice(found).send_signal(signal.SIGKILL)
    return True


def kill_switchboard(scene: Scene, chance: random.Random) -> bool:
    """Where driver and lanes leave their messages."""
    found = [process for node in scene.nodes for process in node.named("ray::Switchboard")]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return bool(found)


def kill_raylet(scene: Scene, chance: random.Random) -> bool:
    """Ray's daemon of a machine: the machine is lost to the cluster. Another joins."""
    node = chance.choice(scene.nodes.workers)
    found = node.named("/raylet/raylet")
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    if found:
        time.sleep(2)
        scene.nodes.drop(node)
        scene.nodes.add()
    return bool(found)


def kill_node(scene: Scene, chance: random.Random) -> bool:
    """A whole machine, as a spot instance goes; another joins."""
    scene.nodes.drop(chance.choice(scene.nodes.workers))
    scene.nodes.add()
    return True


def kill_driver(scene: Scene, chance: random.Random) -> bool:
    """The command itself; the user types it again."""
    if scene.driver is None or scene.driver.poll() is not None:
        return False
    scene.driver.send_signal(signal.SIGKILL)
    scene.driver.wait()
    scene.begin()
    return True


def kill_server(scene: Scene, chance: random.Random) -> bool:
    """MLflow's server; somebody starts it again some seconds later."""
    if scene.mlflow is None or scene.mlflow.poll() is not None:
        return False
    for process in [*psutil.Process(scene.mlflow.pid).children(recursive=True), scene.mlflow]:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.send_signal(signal.SIGKILL)
    scene.mlflow.wait()
    time.sleep(chance.uniform(0.5, 3))
    scene.serve()
    return True


def truncate_data(scene: Scene, chance: random.Random) -> bool:
    """A data set loses its end, while lanes have it open."""
    found = sorted((scene.store / "data").glob("*-train-*[0-9a-f]/data.arrow"))
    if not found:
        return False
    file = chance.choice(found)
    with suppress(FileNotFoundError):
        os.truncate(file, file.stat().st_size // 2)
    return True


def fill_store(scene: Scene, chance: random.Random) -> bool:
    """The disk under the store is full for some seconds. (The store is on a small file system of its own.)"""
    if not os.path.ismount(scene.store):
        return False
    ballast = scene.store / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    time.sleep(chance.uniform(2, 5))
    ballast.unlink()
    return True


FAULTS: tuple[Fault, ...] = (
    kill_worker,
    kill_switchboard,
    kill_raylet,
    kill_node,
    kill_driver,
    kill_server,
    truncate_data,
    fill_store,
)
