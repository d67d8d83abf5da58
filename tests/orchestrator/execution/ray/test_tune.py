"""If Tune fails, its trials are lost but the sweep continues."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.ray import tune as module
from orchestrator.execution.ray.tune import FAILURES, Tuning
from orchestrator.execution.scheduler import Over
from tests.orchestrator.execution.ray.bundles import bundle, until

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


def test_when_tune_fails_its_trials_are_lost_and_it_is_restarted(runs: list[str], tmp_path: Path) -> None:
    with Tuning({"not": "sent"}, tmp_path) as tuning:  # type: ignore[arg-type]
        why = "Ray Tune failed: RuntimeError: Caught unexpected exception: OutOfMemoryError"
        tuning.suggest(bundle(1, "a"))
        tuning.suggest(bundle(2, "b"))
        assert until(tuning, lambda events: len(events) == 2) == [Over(1, why), Over(2, why)]
        tuning.suggest(bundle(3, "a"))
        assert until(tuning, bool) == [Over(3, why)]
    assert len(set(runs)) == len(runs) == 2


def test_if_tune_never_runs_the_sweep_ends_with_the_reason(runs: list[str], tmp_path: Path) -> None:
    with Tuning({"not": "sent"}, tmp_path) as tuning:  # type: ignore[arg-type]
        for number in range(FAILURES):
            tuning.suggest(bundle(number, "a"))
            until(tuning, bool)
        tuning.suggest(bundle(99, "a"))
        with pytest.raises(OSError, match="Ray Tune fails repeatedly: RuntimeError: Caught"):
            until(tuning, bool)
    assert threading.active_count() < 50


def test_tune_is_not_started_before_there_is_a_bundle(runs: list[str], tmp_path: Path) -> None:
    with Tuning({"not": "sent"}, tmp_path) as tuning:  # type: ignore[arg-type]
        assert list(tuning.events()) == []
    assert runs == []


@pytest.mark.slow
@pytest.mark.xdist_group("whole")
@pytest.mark.parametrize("script", ["on_tune", "on_gpus"])
def test_on_a_cluster(script: str) -> None:
    """See on_tune.py and on_gpus.py; each is one process with one cluster for all checks, which takes long to
    start."""
    run = [sys.executable, "-m", f"tests.orchestrator.execution.ray.{script}"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
