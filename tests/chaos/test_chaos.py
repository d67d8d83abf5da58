"""Whatever dies while a sweep runs: every trial is there once, with the numbers of an undisturbed run, and
nothing is left behind.

`make chaos RUNS=10` repeats it with faults at other moments; the seed of a run is printed, and
$OPSCTL_CHAOS_SEED repeats it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.cluster import Nodes, free_port, told
from tests.chaos.faults import FAULTS, Fault, Scene
from tests.chaos.witness import as_if_alone, nothing_left, sweep
from tests.conftest import start
from tests.orchestrator.sweeps import write
from tests.test_sweep import tracked, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]
SECONDS = 600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store, on a small file system of its own where that can be had, so that it can be full."""
    folder = tmp_path / "store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def scene(tmp_path: Path, store: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    port, database = free_port(), f"sqlite:///{tmp_path}/server.db"
    uri = f"http://127.0.0.1:{port}"

    def serve() -> subprocess.Popen[str]:
        server = start("ui", "--port", port, "--tracking-uri", database, store=store)
        wait_for(server, "MLflow is at")
        return server

    with Nodes(workers=2) as nodes:
        options = {**nodes.options, "OPSCTL_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
        file = write(tmp_path, sweep(request.param))
        scene = Scene(file, store, nodes, options, tmp_path / "driver.log", serve)
        yield scene
        for process in (scene.driver, scene.mlflow):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(60)
    assert [told(p) for p in psutil.process_iter() if str(tmp_path) in told(p)] == [], "processes are left"


def disturb(scene: Scene, chance: random.Random, faults: list[Fault]) -> dict[str, int]:
    """Run the sweep to its end, with these faults on the way, at random moments; when each result came."""
    scene.serve()
    scene.begin()
    seen: dict[str, int] = {}
    end, due = time.monotonic() + SECONDS, time.monotonic() + chance.uniform(8, 16)
    while scene.driver is not None and scene.driver.poll() is None:
        assert time.monotonic() < end, scene.log.read_text()
        for key, when in scene.results().items():
            assert seen.setdefault(key, when) == when, f"{key} was run twice"
        if faults and time.monotonic() > due:
            fault = faults.pop(0)
            if fault(scene, chance):
                scene.done[fault.__name__] += 1
            else:
                faults.append(fault)
            due = time.monotonic() + chance.uniform(1, 6)
        time.sleep(0.05)
    return seen


def verify(scene: Scene, seeds: int, tmp_path: Path) -> None:
    """Every trial once, equal to one that ran alone; MLflow complete; nothing left."""
    plan = as_if_alone(sweep(seeds), scene.store, tmp_path / "alone")
    code = start("track", scene.file, store=scene.store, **scene.options).wait(120)
    assert code == 0
    runs = tracked(sweep(seeds), scene.store, f"sqlite:///{tmp_path}/server.db")
    assert runs == {task.key: ["FINISHED"] for task in plan.tasks}
    nothing_left(scene.store)


def play(scene: Scene, tmp_path: Path, *, seeds: int, faults: int, seed: int) -> None:
    chance = random.Random(seed)
    drawn = [fault for _ in range(1 + faults // len(FAULTS)) for fault in chance.sample(FAULTS, len(FAULTS))]
    disturb(scene, chance, drawn[:faults])
    assert scene.driver is not None
    assert scene.driver.returncode == 0, scene.log.read_text()
    verify(scene, seeds, tmp_path)
    print(json.dumps({"seed": seed, "faults": sum(scene.done.values()), **scene.done}))


@pytest.mark.parametrize("scene", [6], indirect=True)
def test_each_fault_once(scene: Scene, tmp_path: Path) -> None:
    seed = int(os.environ.get("OPSCTL_CHAOS_SEED", "0"))
    play(scene, tmp_path, seeds=6, faults=len(FAULTS), seed=seed)


@pytest.mark.chaos
@pytest.mark.parametrize("run", range(int(os.environ.get("OPSCTL_CHAOS_RUNS", "3"))))
@pytest.mark.parametrize("scene", [12], indirect=True)
def test_many_faults_at_random_moments(scene: Scene, tmp_path: Path, run: int) -> None:
    seed = int(os.environ.get("OPSCTL_CHAOS_SEED", time.time_ns() % 2**31)) + run
    print(f"OPSCTL_CHAOS_SEED={seed}")
    play(scene, tmp_path, seeds=12, faults=20, seed=seed)
