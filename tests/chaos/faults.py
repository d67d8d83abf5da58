"""Faults that may happen while a sweep runs, and how to cause them."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.cluster import MEMORY, Cluster, at_work, kill_all, named, tree
from tests.chaos.memory import taken, until
from tests.chaos.yard import Yard

KILLED = "ran out of memory"  # a driver's message about a worker that Ray killed
GIVE_UP_SECONDS = 120.0  # within which a driver must end once its cluster is gone


@dataclass
class Scene:
    """A running sweep, with everything that can be broken about it."""

    words: list[str]  # the command's
    store: Path
    cluster: Cluster
    options: dict[str, str]
    folder: Path  # for logs and databases
    diary: Path  # written by workers
    yard: Yard
    disk: Path | None  # a small file system under the store, if it can be mounted
    server: Callable[[], subprocess.Popen[str]]  # starts MLflow's
    machines: str  # of what kind they are
    driver: subprocess.Popen[bytes] | None = None
    mlflow: subprocess.Popen[str] | None = None
    began: int = 0  # where in the log the last driver's output begins
    done: Counter[str] = field(default_factory=Counter)  # faults by name

    @property
    def log(self) -> Path:
        return self.folder / "driver.log"

    def begin(self) -> None:
        """Start the driver, as a user does: the same command each time."""
        self.began = self.log.stat().st_size if self.log.exists() else 0
        self.driver = self.cluster.drive(self.words, self.options, self.log)

    def serve(self) -> None:
        self.mlflow = self.server()

    def output(self) -> str:
        """The output of the last driver."""
        return self.log.read_bytes()[self.began :].decode()

    @property
    def tracked(self) -> bool:
        """Whether MLflow's server was up when the last driver began; else its runs come with `opsctl track`."""
        return "no MLflow tracking store answers" not in self.output()

    def written(self) -> int:
        """The size of the diary in bytes."""
        return self.diary.stat().st_size if self.diary.exists() else 0

    def results(self) -> dict[str, int]:
        files = (self.store / "trials").glob("*/result.json")
        return {file.parent.name: file.stat().st_mtime_ns for file in files}

    def close(self) -> None:
        """Kill what still runs."""
        for process in (self.driver, self.mlflow):
            if process is not None:
                kill_all(tree(process.pid) if process.poll() is None else [])
                process.communicate(timeout=60)


Fault = Callable[[Scene, random.Random], bool]  # False: there was nothing to break at the moment


def kill_worker(scene: Scene, chance: random.Random) -> bool:
    """Kill a worker or a builder."""
    found = at_work(scene.cluster)
    return kill_all([chance.choice(found)]) if found else False


def kill_raylet(scene: Scene, chance: random.Random) -> bool:
    """Kill Ray's daemon on a machine: the cluster loses the machine, and another joins."""
    machine = chance.choice(scene.cluster.workers)
    if not kill_all(named(machine, "/raylet/raylet")):
        return False
    time.sleep(2)
    scene.cluster.drop(machine)
    scene.cluster.add()
    return True


def kill_node(scene: Scene, chance: random.Random) -> bool:
    """Kill a whole machine, as a spot instance is reclaimed; another joins."""
    scene.cluster.drop(chance.choice(scene.cluster.workers))
    scene.cluster.add()
    return True


def kill_driver(scene: Scene, chance: random.Random) -> bool:
    """Kill the command itself; the user runs it again."""
    if scene.driver is None or scene.driver.poll() is not None:
        return False
    kill_all(tree(scene.driver.pid))
    scene.driver.wait()
    scene.begin()
    return True


def kill_gcs(scene: Scene, chance: random.Random) -> bool:
    """Kill the control service of the Ray cluster: the sweep ends. The cluster is restarted, and the user runs the
    same command again."""
    if scene.driver is None or scene.driver.poll() is not None:
        return False
    kill_all(named(scene.cluster.head, "/gcs/gcs_server"))
    code = scene.driver.wait(GIVE_UP_SECONDS)
    scene.cluster.restart()
    if code:  # else it was done already
        scene.begin()
    return True


def kill_server(scene: Scene, chance: random.Random) -> bool:
    """Kill MLflow's server and start it again some seconds later."""
    if scene.mlflow is None or scene.mlflow.poll() is not None:
        return False
    kill_all(tree(scene.mlflow.pid))
    scene.mlflow.communicate()
    time.sleep(chance.uniform(0.5, 3))
    scene.serve()
    return True


def pull_cable(scene: Scene, chance: random.Random) -> bool:
    """Cut a machine's network for a moment; the cluster need not notice."""
    machine = chance.choice(scene.cluster.workers)
    if not scene.cluster.cut(machine):
        return False
    time.sleep(chance.uniform(0.5, 3))
    scene.cluster.mend(machine)
    return True


def cut_network(scene: Scene, chance: random.Random) -> bool:
    """Cut a machine's network until the cluster has given it up, while its processes continue; then restart Ray
    there."""
    machine = chance.choice(scene.cluster.workers)
    if not scene.cluster.cut(machine):
        return False
    time.sleep(chance.uniform(15, 25))
    scene.cluster.mend(machine)
    scene.cluster.rejoin(machine)
    return True


def fill_memory(scene: Scene, chance: random.Random) -> bool:
    """Fill the memory of the machine for a moment; Ray kills workers until it is free again."""
    share = float(scene.cluster.options.get(MEMORY, 1.0))
    if share == 1.0 or scene.driver is None or scene.driver.poll() is not None:
        return False
    before = scene.output().count(KILLED)
    with taken(share):
        return until(lambda: scene.output().count(KILLED) > before, seconds=20)


def jump_clock(scene: Scene, chance: random.Random) -> bool:
    """Set the wall clock of all processes some hours ahead or back."""
    scene.yard.jump(3600 * chance.uniform(-9, 9))
    return True


def truncate_data(scene: Scene, chance: random.Random) -> bool:
    """Truncate a data set while workers have it open."""
    found = sorted((scene.store / "data").glob("*-train-*[0-9a-f]/data.arrow"))
    if not found:
        return False
    file = chance.choice(found)
    with suppress(FileNotFoundError):
        os.truncate(file, file.stat().st_size // 2)
    return True


def fill_store(scene: Scene, chance: random.Random) -> bool:
    """Fill the disk under the store for some seconds."""
    if scene.disk is None:
        return False
    ballast = scene.disk / "ballast"
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
    kill_raylet,
    kill_node,
    kill_driver,
    kill_server,
    truncate_data,
    fill_store,
)
MORE: tuple[Fault, ...] = (jump_clock, fill_memory, kill_gcs)  # the last takes half a minute
CABLES: tuple[Fault, ...] = (pull_cable, cut_network)  # of machines that have some
