"""If Tune fails, its workers are lost but the sweep continues."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.ray import tune as module
from orchestrator.execution.ray.tune import FAILURES, Workers
from tests.chaos.yard import settled

RAISED = RuntimeError("Caught unexpected exception: OutOfMemoryError")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of Tune's runs; each raises at once."""
    names: list[str] = []

    def run(*_: Any, name: str, **__: Any) -> None:
        names.append(name)
        raise RAISED

    monkeypatch.setattr(module.tune, "run", run)
    monkeypatch.setattr(module, "pause", lambda failures: 0.0)
    return names


def failed(workers: Workers) -> list[tuple[int, str]]:
    """What is lost once Tune has failed."""
    assert settled(lambda: [] if workers._error else [workers]) == []
    return list(workers.ended())


def opened(folder: Path) -> Workers:
    return Workers({"not": "sent"}, folder, cpus=1.0)  # type: ignore[arg-type]


def test_when_tune_fails_its_workers_are_lost_and_it_is_restarted(runs: list[str], tmp_path: Path) -> None:
    with opened(tmp_path) as workers:
        workers.order(0.0)
        workers.order(0.5)
        why = "Ray Tune failed: RuntimeError: Caught unexpected exception: OutOfMemoryError"
        assert failed(workers) == [(1, why), (2, why)]
        assert workers.open == {}
        workers.order(0.25)
        assert workers.open == {3: 0.25}, "a worker that Tune left running must not be taken for a new one"
        assert [number for number, _ in failed(workers)] == [3]
    assert len(set(runs)) == len(runs) >= 2


def test_if_tune_never_runs_the_sweep_ends_with_the_reason(runs: list[str], tmp_path: Path) -> None:
    with opened(tmp_path) as workers:
        for _ in range(FAILURES):
            failed(workers)
        with pytest.raises(OSError, match="Ray Tune fails repeatedly: RuntimeError: Caught"):
            failed(workers)
    assert threading.active_count() < 50


def test_a_request_from_a_worker_resets_the_count_of_tune_failures(runs: list[str], tmp_path: Path) -> None:
    with opened(tmp_path) as workers:
        for _ in range(3 * FAILURES):
            failed(workers)
            workers.failures = 0  # as the dispatcher does when a worker asks
