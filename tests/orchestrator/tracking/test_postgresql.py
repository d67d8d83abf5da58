"""A sweep's runs in a real PostgreSQL database, where PostgreSQL is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.trial import run_trial
from orchestrator.tracking import LiveTracker, Tracker
from poisons import Store
from tests.conftest import CPU
from tests.orchestrator.sweeps import plan_of, tiny
from tests.orchestrator.tracking.test_tracker import as_recorded, epochs

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def _tools() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian has them outside the search path."""
    found = [Path(place).parent for place in [shutil.which("initdb")] if place]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "pg_ctl").exists()), None)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database."""
    if (tools := _tools()) is None:
        pytest.skip("no initdb at hand: install PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="opsctl-pg-"))
    user = None
    if os.geteuid() == 0:  # whose server it refuses to be
        user = next(
            name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}
        )
        shutil.chown(folder, user)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]

    def call(*words: str) -> None:
        subprocess.run(words, user=user, check=True, timeout=120, stdout=subprocess.DEVNULL, cwd=folder)

    data = str(folder / "data")
    call(str(tools / "initdb"), "-D", data, "-U", "opsctl", "--auth=trust", "-N")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call(str(tools / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://opsctl:a-password@127.0.0.1:{port}/postgres"
    finally:
        call(str(tools / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_a_sweep_is_tracked_in_postgresql(database: str, store: Store) -> None:
    plan = plan_of(tiny(), store)
    tracker = Tracker(database, plan, store)
    records = [run_trial(task.trial, store, device=CPU) for task in plan.tasks]
    watcher = LiveTracker(tracker, pytest.fail, every=0.1)
    watcher.sweep_started(plan)
    for task, record in zip(plan.tasks[:3], records[:3], strict=True):
        watcher.trial_started(task)
        watcher.trial_progress(task, record["history"])
        watcher.trial_done(task, record)
    watcher.sweep_ended()
    assert watcher.complete
    assert tracker.sync() == 0, "the fourth, too, was in the ledger"
    for task, record in zip(plan.tasks, records, strict=True):
        (run,) = tracker.runs()[task.key]
        assert run.info.status == "FINISHED"
        assert epochs(tracker, run, "train/loss") == as_recorded(record, "train/loss")
