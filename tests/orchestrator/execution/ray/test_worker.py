"""What is wrong where a worker works is told as the outcome of a trial, and whose fault that is."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.ray.connect import given
from orchestrator.execution.ray.worker import Shared, Worker
from orchestrator.execution.trial import run_trial
from orchestrator.storage.backoff import ATTEMPTS
from orchestrator.storage.heartbeats import Driver
from orchestrator.storage.locations import open_storage
from orchestrator.storage.stores import open_driven
from poisons import Store
from poisons.durable import StoreError
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError
from trainers.spec import plain


def carried_out(where: Path, store: Store, **order: Any) -> dict[str, Any]:
    """How a worker that has no line and no store at `where` ends a trial."""
    task = plan_of(tiny(), store).tasks[0]
    worker_state = Worker(Shared(None, str(where), "nobody", "{}", run_trial), 0.0, None)  # type: ignore[arg-type]
    trial = json.dumps(plain(task.trial))
    ended = worker_state.carry_out({"attempt": 1, "key": task.key, "trial": trial, **order})
    return dict(ended["fault"])


def test_a_store_that_does_not_answer_as_a_worker_starts_is_a_fault_of_the_machine(
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


def test_a_worker_makes_no_store_of_its_own(store: Store, tmp_path: Path) -> None:
    """A path of the driver's machine alone: its results would be seen by nobody."""
    with pytest.raises(
        InputError, match=r"not the store of the driver.* --store s3://bucket/prefix or a folder"
    ):
        open_driven(str(tmp_path / "mine"), "sweep-1-abcd", patience=0.0)
    assert not (tmp_path / "mine").exists()
    with Driver(open_storage(store.where), "sweep", threading.Event()) as driver:
        assert open_driven(store.where, driver.id, patience=0.0).root == store.root


def test_a_store_that_shows_the_mark_late_is_waited_for(store: Store) -> None:
    """As a folder on a network does, whose listings may be a minute old."""
    driver = Driver(open_storage(store.where), "sweep", threading.Event())
    late = threading.Timer(0.3, driver.beat)
    late.start()
    assert open_driven(store.where, driver.id, patience=5.0).root == store.root
    late.join()


def test_storage_that_does_not_answer_is_no_other_store(store: Store, tmp_path: Path) -> None:
    (tmp_path / "drivers").symlink_to("drivers")  # ELOOP, as ESTALE would be
    with pytest.raises(StoreError, match="does not answer on"):
        open_driven(str(tmp_path), "me", patience=0.0)


def test_a_card_that_no_longer_works_is_told_and_one_that_is_none_is_not(tmp_path: Path) -> None:
    """Ray can be told of cards that no machine has, as tests do; a trial must not crawl on a processor."""
    assert given(gpu=True, works=True, built=True).type == "cuda"
    assert given(gpu=True, works=False, built=True, devices=tmp_path).type == "cpu"
    (tmp_path / "nvidiactl").touch()
    assert given(gpu=True, works=False, built=True, devices=tmp_path).type == "cpu"
    (tmp_path / "nvidia0").touch()
    assert given(gpu=False, works=False, built=True, devices=tmp_path).type == "cpu"
    assert given(gpu=True, works=False, built=False, devices=tmp_path).type == "cpu"
    with pytest.raises(RuntimeError, match="CUDA error"):
        given(gpu=True, works=False, built=True, devices=tmp_path)
