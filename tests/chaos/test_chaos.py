"""Whatever dies while a sweep runs, every trial has one result with the numbers of an undisturbed run, and
nothing is left behind.

`make chaos RUNS=10` repeats it with faults at other moments; the seed of a run is printed, and
$OPSCTL_CHAOS_SEED repeats it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Nodes, free_port
from tests.chaos.faults import FAULTS, MORE, Scene
from tests.chaos.play import RUNS, SEED, WORKERS, play
from tests.chaos.witness import sweep
from tests.chaos.yard import Yard, command_line, settled, small_disk
from tests.conftest import start
from tests.orchestrator.sweeps import write
from tests.test_sweep import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]


@pytest.fixture
def disk() -> Iterator[Path | None]:
    with small_disk() as folder:
        yield folder


@pytest.fixture
def scene(tmp_path: Path, disk: Path | None, request: pytest.FixtureRequest) -> Iterator[Scene]:
    port, store, diary = free_port(), disk or tmp_path / "store", tmp_path / "diary"
    database = f"sqlite:///{tmp_path}/server.db"

    def serve() -> subprocess.Popen[str]:
        server = start("ui", "--port", port, "--tracking-uri", database, store=store, **yard.env)
        wait_for(server, "MLflow is at")
        return server

    options = {
        "OPSCTL_STORE": str(store),
        "OPSCTL_TRACKING_URI": f"http://127.0.0.1:{port}",
        "OPSCTL_TEST_DIARY": str(diary),
    }
    words = ["sweep", str(write(tmp_path, sweep(request.param))), "--tracking-wait", "60"]
    with Yard() as yard, Nodes(WORKERS, yard) as nodes:
        scene = Scene(words, store, nodes, options, tmp_path, diary, yard, disk, serve, "processes")
        try:
            yield scene
        finally:
            scene.close()
            nodes.end()
        left = [command_line(process) for process in settled(yard.processes)]
        assert left == [], "processes are left"


@pytest.mark.chaos
@pytest.mark.parametrize("scene", [6], indirect=True)
def test_each_fault_once(scene: Scene, tmp_path: Path) -> None:
    play(scene, tmp_path / "alone", FAULTS, seeds=6, count=len(FAULTS), seed=int(SEED or 0))


@pytest.mark.chaos
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("scene", [12], indirect=True)
def test_many_faults_at_random_moments(scene: Scene, alone: Path, run: int) -> None:
    seed = int(SEED or time.time_ns() % 2**31) + run
    print(f"OPSCTL_CHAOS_SEED={seed}")
    play(scene, alone, FAULTS + MORE, seeds=12, count=20, seed=seed)
