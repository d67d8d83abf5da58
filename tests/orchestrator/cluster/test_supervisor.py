"""A killed sweep is restarted as long as it makes progress; a sweep that ends by itself is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cluster import supervisor
from orchestrator.cluster.supervisor import STOPPED, TRIES, Supervisor
from orchestrator.monitoring.stop import stop_drivers
from orchestrator.storage.heartbeats import Driver, live_heartbeats
from orchestrator.storage.storage import FolderStorage
from tests.conftest import ROOT

# `opsctl sweep` in little: each is killed by itself until there are so many results
SWEEP = """
import os, signal, sys
from pathlib import Path
store, wanted, results = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with (store / "tries").open("a") as tries:
    tries.write("x")
for key in range(results):
    (store / "trials" / f"{os.getpid()}-{key}").mkdir(parents=True)
    (store / "trials" / f"{os.getpid()}-{key}" / "result.json").touch()
if len((store / "tries").read_text()) < wanted:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[4]))
"""
# one that has a heartbeat, hears of it, and says so by its exit code
DRIVER = """
import sys, threading
from pathlib import Path
from orchestrator.storage.storage import FolderStorage
from orchestrator.storage.heartbeats import Driver
from orchestrator.cluster.host import stoppable
with stoppable() as stop, Driver(FolderStorage(Path(sys.argv[1])), "tiny", stop, needs=[]):
    stop.wait(60)
    (Path(sys.argv[1]) / "cleanly").touch()
sys.exit(130)
"""


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStorage:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.02)
    return FolderStorage(tmp_path)


def sweep(storage: FolderStorage, *, wanted: int, results: int = 0, code: int = 0) -> list[str]:
    return [sys.executable, "-c", SWEEP, storage.where, str(wanted), str(results), str(code)]


def started(runs: Supervisor) -> tuple[list[int], threading.Thread]:
    """Run it in a thread; the list receives its exit code."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(runs.run()), daemon=True)
    thread.start()
    return codes, thread


def tries(storage: FolderStorage) -> int:
    return len((storage.root / "tries").read_text())


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_sweep_that_ends_by_itself_is_not_restarted(storage: FolderStorage, code: int) -> None:
    assert Supervisor(storage, "tiny", sweep(storage, wanted=1, code=code)).run() == code
    assert tries(storage) == 1
    assert storage.names("drivers") == []


def test_a_killed_sweep_is_restarted(storage: FolderStorage, capfd: pytest.CaptureFixture[str]) -> None:
    assert Supervisor(storage, "tiny", sweep(storage, wanted=3)).run() == 0
    assert tries(storage) == 3
    assert capfd.readouterr().out.count("the sweep was killed by SIGKILL; it is restarted in") == 2


def test_it_is_restarted_as_often_as_it_makes_progress(storage: FolderStorage) -> None:
    assert Supervisor(storage, "tiny", sweep(storage, wanted=TRIES + 3, results=1)).run() == 0
    assert tries(storage) == TRIES + 3


def test_findings_of_probes_count_as_progress(storage: FolderStorage) -> None:
    assert supervisor.RESULTS.search("0a1b/look-0123456789abcdef.json")
    probes = [
        word.replace("result.json", "look-0123456789abcdef.json")
        for word in sweep(storage, wanted=TRIES + 3, results=1)
    ]
    assert Supervisor(storage, "tiny", probes).run() == 0
    assert tries(storage) == TRIES + 3


def test_it_gives_up_without_progress(storage: FolderStorage, capfd: pytest.CaptureFixture[str]) -> None:
    assert Supervisor(storage, "tiny", sweep(storage, wanted=99)).run() == 128 + signal.SIGKILL
    assert tries(storage) == TRIES
    assert f"killed by SIGKILL {TRIES} times in a row without progress" in capfd.readouterr().out


def test_it_can_be_stopped_while_it_waits_to_restart(
    storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS", 60)
    codes, thread = started(Supervisor(storage, "tiny", sweep(storage, wanted=99)))
    until(lambda: (storage.root / "tries").exists() and bool(live_heartbeats(storage)))
    assert stop_drivers(storage, live_heartbeats(storage), wait=30) == []
    thread.join(30)
    assert codes == [STOPPED]
    assert tries(storage) == 1


NEEDED = "digits-clean-train-0123456789abcdef"


def test_what_a_killed_sweep_needs_stays_protected(storage: FolderStorage) -> None:
    with Driver(storage, "tiny", threading.Event(), needs=[NEEDED], starts=["k"], snapshot="v") as driver:
        (left,) = live_heartbeats(storage)
        assert left["id"] == driver.id
    standin = supervisor.Standin(storage, "tiny")
    standin.appear(left)
    (shown,) = live_heartbeats(storage)
    assert (shown["needs"], shown["starts"], shown["outline"]) == ([NEEDED], ["k"], "v")
    standin.leave()


def test_stop_reaches_the_sweep_itself_once_it_runs(storage: FolderStorage) -> None:
    codes, thread = started(Supervisor(storage, "tiny", [sys.executable, "-c", DRIVER, storage.where]))
    until(lambda: [heartbeat["pid"] for heartbeat in live_heartbeats(storage)] not in ([], [os.getpid()]))
    until(lambda: len(live_heartbeats(storage)) == 1)
    (heartbeat,) = live_heartbeats(storage)
    assert heartbeat["pid"] != os.getpid(), "status shows one driver, not two"
    assert stop_drivers(storage, [heartbeat], wait=30) == []
    thread.join(30)
    assert codes == [STOPPED]
    assert (storage.root / "cleanly").exists()


def test_a_sweep_killed_after_a_request_to_stop_is_not_restarted(storage: FolderStorage) -> None:
    codes, thread = started(Supervisor(storage, "tiny", [sys.executable, "-c", DRIVER, storage.where]))
    until(lambda: len(live_heartbeats(storage)) == 1 and live_heartbeats(storage)[0]["pid"] != os.getpid())
    (heartbeat,) = live_heartbeats(storage)
    os.kill(heartbeat["pid"], signal.SIGSTOP)  # it hears no more
    storage.write(f"drivers/{heartbeat['id']}.stop", b"{}")
    os.kill(heartbeat["pid"], signal.SIGKILL)
    thread.join(30)
    assert codes == [STOPPED]
    assert storage.names("drivers") == []


def test_ending_the_job_ends_both(tmp_path: Path) -> None:
    """Ray signals every process of a job, so the supervisor only waits for the sweep."""
    script = f"""
import sys
from pathlib import Path
from orchestrator.storage.storage import FolderStorage
from orchestrator.cluster.supervisor import Supervisor
sys.exit(Supervisor(FolderStorage(Path(sys.argv[1])), "tiny", [sys.executable, "-c", {DRIVER!r}, sys.argv[1]]).run())
"""
    job = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    storage = FolderStorage(tmp_path)
    until(lambda: len(live_heartbeats(storage)) == 1 and live_heartbeats(storage)[0]["pid"] != job.pid)
    for process in (job.pid, live_heartbeats(storage)[0]["pid"]):
        os.kill(process, signal.SIGTERM)
    assert job.wait(30) == STOPPED
    assert (tmp_path / "cleanly").exists()


def test_it_imports_nothing_heavy() -> None:
    """A machine that runs out of memory should kill the sweep, not its supervisor."""
    code = "import sys, orchestrator.cluster.supervisor; print(*{'ray', 'torch', 'mlflow', 'fsspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
