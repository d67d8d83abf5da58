"""A problem on a worker's machine ends its trial with a fault of the right kind."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.execution.ray import worker as module
from orchestrator.execution.ray.connect import given
from orchestrator.execution.ray.worker import Reporter, Shared, Worker
from orchestrator.execution.trial import run_trial
from orchestrator.storage.backoff import ATTEMPTS
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.locations import open_storage
from orchestrator.storage.stores import open_driven
from poisons import Store
from poisons.durable import StoreError
from tests.orchestrator.execution.ray.bundles import bundle
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError
from trainers.spec import plain


def carried_out(where: Path, store: Store, **order: Any) -> dict[str, Any]:
    """The fault with which a worker without a store at `where` ends a trial."""
    task = plan_of(tiny(), store).tasks[0]
    worker = Worker(Shared(str(where), "nobody", "{}", run_trial), 0.0)
    given = {"attempt": 1, "key": task.key, "trial": json.dumps(plain(task.trial)), "keep": False}
    ended, _ = worker.carry_out(given | order, Reporter())  # type: ignore[arg-type]
    return dict(ended["fault"])


def test_an_unreachable_store_at_worker_startup_is_a_machine_fault(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.backoff.pause", lambda faults: 0.0)
    tries = []

    def away(where: str, driver: str) -> Store:
        tries.append(where)
        return Store(tmp_path / "file" / "store")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr("orchestrator.execution.ray.worker.open_driven", away)
    fault = carried_out(tmp_path, store)
    assert (fault["kind"], len(tries)) == ("machine", ATTEMPTS)
    assert "cannot be written" in fault["error"]


def test_a_worker_of_another_version_says_what_to_do(store: Store, tmp_path: Path) -> None:
    fault = carried_out(tmp_path, store, key="f" * 16)
    assert fault["kind"] == "config"
    assert f"is {'f' * 16} for the driver" in fault["error"]
    assert "two versions of opsctl; install the same one on every machine" in fault["error"]


def test_a_worker_never_creates_a_store(store: Store, tmp_path: Path) -> None:
    """The path may exist only on the driver's machine; results stored under it elsewhere would be lost."""
    with pytest.raises(
        InputError, match=r"not the store of the driver.* --store s3://bucket/prefix or a folder"
    ):
        open_driven(str(tmp_path / "mine"), "sweep-1-abcd", patience=0.0)
    assert not (tmp_path / "mine").exists()
    with Driver(open_storage(store.where), "sweep", threading.Event()) as driver:
        assert open_driven(store.where, driver.id, patience=0.0).root == store.root


def test_a_heartbeat_that_becomes_visible_late_is_waited_for(store: Store) -> None:
    """Listings of a network folder may be a minute old."""
    driver = Driver(open_storage(store.where), "sweep", threading.Event())
    late = threading.Timer(0.3, driver.beat)
    late.start()
    assert open_driven(store.where, driver.id, patience=5.0).root == store.root
    late.join()


def test_unreachable_storage_is_not_taken_for_another_store(store: Store, tmp_path: Path) -> None:
    (tmp_path / "drivers").symlink_to("drivers")  # ELOOP, as ESTALE would be
    with pytest.raises(StoreError, match="does not answer on"):
        open_driven(str(tmp_path), "me", patience=0.0)


def test_a_broken_gpu_is_an_error_but_a_missing_one_is_not(tmp_path: Path) -> None:
    """Ray can be given GPUs that no machine has, as tests do; a trial must not silently train on a CPU."""
    assert given(gpu=True, works=True, built=True).type == "cuda"
    assert given(gpu=True, works=False, built=True, devices=tmp_path).type == "cpu"
    (tmp_path / "nvidiactl").touch()
    assert given(gpu=True, works=False, built=True, devices=tmp_path).type == "cpu"
    (tmp_path / "nvidia0").touch()
    assert given(gpu=False, works=False, built=True, devices=tmp_path).type == "cpu"
    assert given(gpu=True, works=False, built=False, devices=tmp_path).type == "cpu"
    with pytest.raises(RuntimeError, match="CUDA error"):
        given(gpu=True, works=False, built=True, devices=tmp_path)


class Ended(BaseException):
    """The process has ended."""


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that workers report; the process of the test takes the place of theirs, on node `here`."""
    found: list[Any] = []

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(module.tune, "report", lambda metrics: found.extend(metrics["messages"]))
    monkeypatch.setattr(
        module.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here")
    )
    monkeypatch.setattr(module.os, "_exit", end)
    monkeypatch.setattr(module, "WORKERS", {})
    return found


def test_a_worker_whose_device_is_broken_reports_that_and_ends(
    reported: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = {"ended": 100, "seconds": 1.0, "fault": {"kind": "machine", "error": "CUDA error"}}
    monkeypatch.setattr(Worker, "carry_out", lambda self, order, reporter: (fault, True))
    with pytest.raises(Ended):
        module.train({"bundle": bundle(1, "first", "second")}, Shared("", "one", "{}", run_trial))
    assert reported == [{"node": "here", "rests": False}, {"started": 100}, fault]


def test_a_worker_on_a_machine_that_rests_starts_nothing_and_stays(
    reported: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    resting = bundle(1, "first", resting={"here": 20.0, "there": 5.0})
    module.train({"bundle": resting}, Shared("", "one", "{}", run_trial))
    assert reported == [{"node": "here", "rests": True}]
    assert slept == [pytest.approx(20.0, abs=1.0)]


def test_epochs_are_reported_in_batches_with_the_last_as_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, clock = list[Any](), [0.0]
    monkeypatch.setattr(module.tune, "report", sent.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    reporter = Reporter()
    for epoch in range(1, 11):
        clock[0] += 0.2
        reporter.epoch(7, {"epoch": float(epoch)})
    rows = [[row["epoch"] for row in message["rows"]] for report in sent for message in report["messages"]]
    assert rows == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert [report["epoch"] for report in sent] == [3.0, 6.0, 9.0]
