"""Machines with networks of their own: cables are pulled and power fails, among all else, at random moments.

What must hold at the end is what holds in test_chaos.py. Needs root, for network namespaces; `make chaos` runs
it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import free_port
from tests.chaos.faults import CABLES, FAULTS, MORE, Scene
from tests.chaos.play import RUNS, SEED, play
from tests.chaos.spaces import Spaces
from tests.chaos.witness import sweep
from tests.chaos.yard import Yard, command_line, settled, small_disk
from tests.cluster.hosts import BOOTED, SHARED, lacking
from tests.conftest import start
from tests.orchestrator.sweeps import write
from tests.test_sweep import wait_for

LACKING = lacking(BOOTED)
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
    pytest.mark.skipif(LACKING is not None, reason=f"hosts cannot be made here: {LACKING}"),
]
SEEDS = 12


@pytest.fixture
def shared() -> Iterator[Path]:
    """The folder that hosts share."""
    with small_disk() as folder:
        assert folder is not None
        yield folder


@pytest.fixture
def scene(tmp_path: Path, shared: Path) -> Iterator[Scene]:
    port, store = free_port(), shared / "store"
    write(shared, sweep(SEEDS))
    write(tmp_path, sweep(SEEDS))
    words = ["sweep", f"{SHARED}/chaos.yaml", "--store", f"{SHARED}/store", "--tracking-wait", "60"]
    with Yard("/var/tmp") as yard, Spaces(tmp_path / "hosts", shared, yard) as spaces:
        diary = yard.folder / "diary"
        here = spaces.hosts.gateway  # where hosts reach this machine

        def serve() -> subprocess.Popen[str]:
            database = f"sqlite:///{tmp_path}/server.db"
            ui = ["ui", "--host", here, "--port", port, "--tracking-uri", database]
            server = start(*ui, store=store, **yard.env)
            wait_for(server, "MLflow is at")
            return server

        options = {"OPSCTL_TRACKING_URI": f"http://{here}:{port}", "OPSCTL_TEST_DIARY": str(diary)}
        scene = Scene(words, store, spaces, options, tmp_path, diary, yard, shared, serve, "hosts")
        try:
            yield scene
            assert spaces.temporary() == []
        finally:
            scene.close()
            spaces.end()
        assert [command_line(process) for process in settled(yard.processes)] == [], "processes are left"


@pytest.mark.parametrize("run", range(RUNS))
def test_many_faults_with_pulled_cables_at_random_moments(scene: Scene, alone: Path, run: int) -> None:
    seed = int(SEED or time.time_ns() % 2**31) + run
    print(f"OPSCTL_CHAOS_SEED={seed}")
    play(scene, alone, CABLES + FAULTS + MORE, seeds=SEEDS, count=16, seed=seed)
