"""A whole sweep on an S3 server, with MLflow's server as cluster.yaml starts it on the head."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import open_storage
from orchestrator.storage.stores import open_store
from orchestrator.tracking import Tracker, payloads
from tests.chaos.witness import as_if_alone
from tests.cluster.heads import BIN, free_ports
from tests.conftest import ROOT, finish, start
from tests.orchestrator.sweeps import plan_of, tiny, write
from tests.orchestrator.tracking.test_tracker import runs
from tests.test_sweep import RESULT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
    ),
]


class Head:
    """The head after `ray up cluster.yaml`, without Ray: a home and MLflow's server."""

    def __init__(self, home: Path, store: str) -> None:
        (home / "opsctl").mkdir(parents=True)
        (self.port,) = free_ports(1)
        commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["head_start_ray_commands"]
        (command,) = (one for one in commands if "mlflow server" in one)
        assert command.count("5000") == 2, "the probed address must be the served one"
        self.command = command.replace("5000", str(self.port))
        self.env = {
            **os.environ,
            "HOME": str(home),
            "OPSCTL_STORE": store,
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.log = home / "opsctl" / "mlflow.log"
        self.groups: list[int] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        shell = subprocess.Popen(["bash", "-c", self.command], env=self.env, start_new_session=True)
        self.groups.append(shell.pid)
        assert shell.wait(30) == 0, "the command must not block `ray up`"
        end = time.monotonic() + 300
        while not self._answers():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.5)

    def stop(self) -> None:
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def head(tmp_path: Path, bucket: str) -> Iterator[Head]:
    head = Head(tmp_path / "home", f"{bucket}/opsctl")
    yield head
    head.stop()


def test_a_sweep_on_an_object_store_runs_once_and_is_tracked(head: Head, bucket: str, tmp_path: Path) -> None:
    head.start()
    begun = head.log.read_text()
    head.start()
    assert head.log.read_text().startswith(begun), "a second `ray up` does not start a second server"

    where, sweep = f"{bucket}/opsctl", tiny(grid={"data.poison": ["ops"], "seed": [0, 1]})
    file = write(tmp_path, sweep)
    options = ("--tracking-uri", head.uri)
    code, out = finish(start("sweep", file, *options, store=where), seconds=600)
    assert code == 0, out
    assert "2 trials to run" in out
    plan = as_if_alone(sweep, where, tmp_path / "alone")
    storage = open_storage(where)
    assert (storage.names("leases"), storage.names("drivers"), storage.names("tmp")) == ([], [], [])
    before = storage.files("trials")

    tracked = runs(Tracker(head.uri, plan, open_store(where)))
    assert {run.info.run_name: run.info.status for run in tracked} == {
        payloads.name(task): "FINISHED" for task in plan.tasks
    }
    assert any(name.endswith(".png") for name in storage.files("mlartifacts")), "pictures are in the bucket"

    code, again = finish(start("sweep", file, *options, store=where), seconds=600)
    assert code == 0, again
    assert RESULT.findall(again) == []
    assert storage.files("trials") == before
    assert Ledger(where).done() == {task.key for task in plan_of(sweep, open_store(where)).tasks}
